/** VM types and memory: each really made, and undone. */
import { KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MEM_GUEST_MEMFD } from '../abi/index.ts';
import { HostMapping, type GuestMemfd, type Kvm, type Vm } from '../kvm/index.ts';
import { remedyFor } from '../tier/remedy.ts';
import type { Host } from '../tier/host.ts';
import { TIER_FACTS, type Tier, type TierRefusal, type TierVmType } from '../tier/tiers.ts';
import { tryTier } from '../tier/try-tier.ts';
import { Shortfall, attempt } from './attempt.ts';
import type { Findings } from './report.ts';

const PAGE = 4096;
const FLAG_NAMES: readonly (readonly [bigint, string])[] = [
  [1n, 'MMAP'],
  [2n, 'INIT_SHARED'],
];

/** Each type as createVm would: created, and (where it can be launched) a guest_memfd bound. */
export function checkVmTypes(kvm: Kvm, host: Host, found: Findings): void {
  for (const type of ['default', 'sw-protected', 'sev', 'sev-es', 'snp', 'tdx'] satisfies TierVmType[]) {
    const tier = type as Tier;
    const { vm, refusal } = tryTier(kvm, tier, host, { needLaunch: false });
    vm?.close();
    if (refusal === undefined)
      found.yes(
        'vm-types',
        `vm-type.${type}`,
        `VM type ${type}`,
        'tried',
        TIER_FACTS[tier].guestMemfd !== 'none' && TIER_FACTS[tier].launch ? 'created, guest_memfd bound' : 'created',
      );
    else refused(found, 'vm-types', `vm-type.${type}`, `VM type ${type}`, refusal);
  }
}

function refused(
  found: Findings,
  group: 'vm-types' | 'memory',
  id: string,
  title: string,
  { reason, evidence, remedy }: TierRefusal,
): void {
  found.no(group, id, title, 'tried', `${reason}: ${evidence}`, remedy);
}

/** guest_memfd with each flag that this VM's kernel knows, created, bound, and mapped where it may be. */
export function checkGuestMemfd(vm: Vm, host: Host, found: Findings): void {
  const offered = BigInt(vm.checkExtension('KVM_CAP_GUEST_MEMFD_FLAGS'));
  attempt(
    found,
    'memory',
    'memslot-v2',
    'Memslots with KVM_SET_USER_MEMORY_REGION2',
    'A kernel of 6.8 or later',
    () => {
      using mapping = HostMapping.anonymous(PAGE);
      vm.setUserMemoryRegion2({ slot: 0, gpa: 0n, size: PAGE, mapping });
      vm.deleteMemslot(0);
      return 'a slot set and deleted';
    },
  );
  for (const flags of [0n, 1n, 3n]) {
    const names =
      FLAG_NAMES.filter(([bit]) => (flags & bit) !== 0n)
        .map(([, name]) => name)
        .join('|') || 'no flags';
    const tier =
      TIER_FACTS[vm.typeName as Tier]?.privateMemory === true
        ? 'sw-protected'
        : flags === 0n
          ? 'default-guest-memfd'
          : 'default-mapped-guest-memfd';
    const remedy =
      flags === 3n && tier === 'sw-protected'
        ? 'Nothing: VMs with private memory do not have it'
        : remedyFor(tier, host);
    attempt(
      found,
      'memory',
      `guest-memfd.${flags}`,
      `guest_memfd with ${names}, on a ${vm.typeName} VM`,
      remedy,
      () => {
        if ((flags & ~offered) !== 0n) throw new Shortfall(`KVM_CAP_GUEST_MEMFD_FLAGS = ${offered}`);
        using gmem = vm.createGuestMemfd(PAGE, { flags });
        return bindOnce(vm, gmem, flags);
      },
    );
  }
}

function bindOnce(vm: Vm, gmem: GuestMemfd, flags: bigint): string {
  using mapping = flags === 3n ? gmem.map() : HostMapping.anonymous(PAGE);
  vm.setUserMemoryRegion2({
    slot: 0,
    gpa: 0n,
    size: PAGE,
    flags: KVM_MEM_GUEST_MEMFD,
    guestMemfd: gmem,
    ...(flags === 1n ? {} : { mapping }),
  });
  try {
    gmem.punchHole(0n, BigInt(PAGE));
    if (flags !== 3n) return 'created, bound, hole punched';
    mapping.write(0, Uint8Array.of(1));
    return 'created, bound, mapped, written, hole punched';
  } finally {
    vm.deleteMemslot(0);
  }
}

export function checkAttributes(vm: Vm, host: Host, found: Findings): void {
  attempt(
    found,
    'private-memory',
    'attributes.private',
    `Memory attribute PRIVATE, on a ${vm.typeName} VM`,
    remedyFor('sw-protected', host),
    () => {
      using mapping = HostMapping.anonymous(PAGE);
      vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: PAGE, mapping });
      try {
        vm.setMemoryAttributes({ address: 0n, size: PAGE, attributes: KVM_MEMORY_ATTRIBUTE_PRIVATE });
        vm.setMemoryAttributes({ address: 0n, size: PAGE, attributes: 0n });
        return 'set and taken back';
      } finally {
        vm.deleteMemslot(0);
      }
    },
  );
}
