/**
 * Makes a VM of one tier, or finds out why not, by doing it: the VM type is created, and a guest_memfd made, bound to a
 * memslot and (where there is private memory) set private, as the tier's user will. The probe is undone afterwards, so
 * the VM comes back empty.
 */
import {
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  KVM_MEMORY_ATTRIBUTE_PRIVATE,
  KVM_MEM_GUEST_MEMFD,
} from '../abi/index.ts';
import { KvmError, KvmSystemError } from '../errors.ts';
import { HostMapping, type GuestMemfd, type Kvm, type Vm } from '../kvm/index.ts';
import type { Host } from './host.ts';
import { remedyFor } from './remedy.ts';
import { TIER_FACTS, type Tier, type TierRefusal } from './tiers.ts';

const PROBE_BYTES = 4096;

export type TierAttempt =
  { readonly vm: Vm; readonly refusal?: undefined } | { readonly vm?: undefined; readonly refusal: TierRefusal };

export interface TryTierOptions {
  /** Refuse a type that can be made but not launched. Default true. */
  readonly needLaunch?: boolean;
}

/** Carries why the attempt ends, out of the steps. */
class Refused extends Error {
  readonly evidence: string;
  readonly remedy: string | undefined;

  constructor(reason: string, evidence: string, remedy?: string) {
    super(reason);
    this.evidence = evidence;
    this.remedy = remedy;
  }
}

/**
 * @throws what is no answer about the tier: a closed handle, no descriptors or memory left.
 */
export function tryTier(kvm: Kvm, tier: Tier, host: Host, { needLaunch = true }: TryTierOptions = {}): TierAttempt {
  let vm: Vm | undefined;
  try {
    checkType(kvm, tier);
    if (needLaunch && !TIER_FACTS[tier].launch) {
      throw new Refused(
        'This host could make it, and node-kvm cannot launch it yet',
        `KVM_CAP_VM_TYPES = ${typesMask(kvm)}`,
        `Nothing on this host; createVm({ type: '${TIER_FACTS[tier].vmType}' }) gives the bare VM for memoryEncryptOp`,
      );
    }
    vm = step(
      `KVM_CREATE_VM, type ${TIER_FACTS[tier].vmType}`,
      'The kernel offers the VM type and cannot make it',
      () => kvm.createVm(TIER_FACTS[tier].vmType),
    );
    if (TIER_FACTS[tier].launch) probeMemory(vm, tier);
    return { vm };
  } catch (error) {
    vm?.close();
    if (!(error instanceof Refused)) throw error;
    return {
      refusal: { tier, reason: error.message, evidence: error.evidence, remedy: error.remedy ?? remedyFor(tier, host) },
    };
  }
}

function checkType(kvm: Kvm, tier: Tier): void {
  const { vmType } = TIER_FACTS[tier];
  if (vmType === 'default' || kvm.vmTypes().includes(vmType)) return;
  throw new Refused(`This host's KVM does not offer the VM type ${vmType}`, `KVM_CAP_VM_TYPES = ${typesMask(kvm)}`);
}

function typesMask(kvm: Kvm): string {
  return `0x${kvm.checkExtension('KVM_CAP_VM_TYPES').toString(16)}`;
}

function probeMemory(vm: Vm, tier: Tier): void {
  const { guestMemfd, privateMemory } = TIER_FACTS[tier];
  if (guestMemfd === 'none') return;
  const flags = guestMemfd === 'mapped' ? GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED : 0n;
  checkCapabilities(vm, privateMemory, flags);
  const gmem = step(`KVM_CREATE_GUEST_MEMFD, flags ${flags}`, 'A guest_memfd cannot be created', () =>
    vm.createGuestMemfd(PROBE_BYTES, { flags }),
  );
  let mapping: HostMapping | undefined;
  try {
    mapping =
      guestMemfd === 'mapped'
        ? step('mmap of the guest_memfd', 'The guest_memfd cannot be mapped', () => gmem.map())
        : HostMapping.anonymous(PROBE_BYTES);
    bindAndUndo(vm, gmem, mapping, privateMemory);
  } finally {
    mapping?.close();
    gmem.close();
  }
}

function checkCapabilities(vm: Vm, privateMemory: boolean, flags: bigint): void {
  if (vm.checkExtension('KVM_CAP_GUEST_MEMFD') === 0 && privateMemory) {
    throw new Refused('This VM has no guest_memfd', 'KVM_CAP_GUEST_MEMFD = 0 on the VM');
  }
  const attributes = BigInt(vm.checkExtension('KVM_CAP_MEMORY_ATTRIBUTES'));
  if (privateMemory && (attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE) === 0n) {
    throw new Refused('This VM cannot have private memory', `KVM_CAP_MEMORY_ATTRIBUTES = ${attributes} on the VM`);
  }
  const offered = BigInt(vm.checkExtension('KVM_CAP_GUEST_MEMFD_FLAGS'));
  if ((flags & ~offered) !== 0n) {
    throw new Refused(
      'A guest_memfd of this VM cannot be mapped by the host',
      `KVM_CAP_GUEST_MEMFD_FLAGS = ${offered} on the VM`,
    );
  }
}

function bindAndUndo(vm: Vm, gmem: GuestMemfd, mapping: HostMapping, privateMemory: boolean): void {
  step('KVM_SET_USER_MEMORY_REGION2 with KVM_MEM_GUEST_MEMFD', 'This VM cannot bind a guest_memfd', () =>
    vm.setUserMemoryRegion2({
      slot: 0,
      gpa: 0n,
      size: PROBE_BYTES,
      flags: KVM_MEM_GUEST_MEMFD,
      mapping,
      guestMemfd: gmem,
    }),
  );
  try {
    if (!privateMemory) return;
    const set = (attributes: bigint): void => vm.setMemoryAttributes({ address: 0n, size: PROBE_BYTES, attributes });
    step('KVM_SET_MEMORY_ATTRIBUTES', 'This VM cannot make memory private', () => set(KVM_MEMORY_ATTRIBUTE_PRIVATE));
    set(0n);
  } finally {
    vm.deleteMemslot(0);
  }
}

// What these say is about the process or the moment, and would be as wrong as a reason to take a weaker VM.
const NOT_AN_ANSWER = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EINTR', 'EAGAIN']);

function step<T>(what: string, reason: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof KvmSystemError && NOT_AN_ANSWER.has(error.code)) throw error;
    if (!(error instanceof KvmError) || error.code === 'ERR_KVM_CLOSED') throw error;
    throw new Refused(reason, `${what}: ${error.code}`);
  }
}
