/** Which VM type to take: the strongest that this host can really make, found by trying. */
import { oneOf, options as checkOptions, rangeError, typeError } from '../arguments.ts';
import { KvmUnsupportedError } from '../errors.ts';
import { Kvm, type Vm } from '../kvm/index.ts';
import { Host } from './host.ts';
import {
  TIERS,
  TIER_FACTS,
  isAtLeast,
  tiersOfType,
  type Tier,
  type TierGuestMemfd,
  type TierRefusal,
  type TierVmType,
} from './tiers.ts';
import { tryTier } from './try-tier.ts';

const VM_TYPES = ['default', 'sw-protected', 'sev', 'sev-es', 'snp', 'tdx'] as const satisfies readonly TierVmType[];

/** What VM is wanted, and the weakest that will do. */
export interface CreateVmOptions {
  /** `'auto'` (the default): the strongest that can be made and launched. A type: this one and no other. */
  readonly type?: 'auto' | TierVmType;
  /** The weakest tier that will do. Default: any. */
  readonly minimum?: Tier;
  /** How the guest_memfd is to be used; leaves only the tiers that do so. Default: any way. */
  readonly guestMemfd?: TierGuestMemfd;
  /**
   * The open KVM to make it with. Default: `/dev/kvm` is opened for this VM alone, and closed with it.
   */
  readonly kvm?: Kvm;
}

/** A VM of which is known how it was chosen. */
export type SelectedVm = Vm & {
  readonly tier: Tier;
  /** Why each stronger tier that was allowed is not this one, strongest first. */
  readonly fallback: readonly TierRefusal[];
};

/**
 * Makes the strongest VM that this host can really make: each VM type is created, and a guest_memfd bound to it, until
 * one works; what was tried is undone, so the VM is empty. `vm.tier` says which tier it is, and `vm.fallback` why each
 * stronger one was refused and what would change that.
 *
 * `'auto'` passes over TDX, SNP, SEV-ES and SEV even where the host offers them, since they cannot be launched yet; an
 * explicit `type` gives such a VM bare, for `vm.memoryEncryptOp`.
 *
 * @throws TypeError or RangeError for bad options, and where `type`, `guestMemfd` and `minimum` exclude each other.
 * @throws KvmUnsupportedError where no tier that is allowed can be made; the message lists every refusal.
 * @throws KvmSystemError where `/dev/kvm` cannot be opened, or descriptors or memory ran out.
 *
 * Kernel documentation: *KVM_CREATE_VM*, *KVM_CREATE_GUEST_MEMFD*, *KVM_SET_USER_MEMORY_REGION2*.
 */
export function createVm(options: CreateVmOptions = {}): SelectedVm {
  const candidates = candidateTiers(options);
  const { kvm: given } = options;
  if (given !== undefined && !(given instanceof Kvm)) throw typeError('a Kvm', 'options.kvm', given);
  const kvm = given ?? Kvm.open();
  try {
    const { vm, tier, refusals } = takeFirst(kvm, candidates, (options.type ?? 'auto') === 'auto');
    vm.attachSelection(tier, refusals, given === undefined);
    return vm as SelectedVm;
  } catch (error) {
    if (given === undefined) kvm.close();
    throw error;
  }
}

/** The tiers that the options allow, strongest first. Validates the options. */
export function candidateTiers(options: CreateVmOptions): Tier[] {
  checkOptions('options', options, ['type', 'minimum', 'guestMemfd', 'kvm']);
  const type = oneOf('options.type', options.type ?? 'auto', ['auto', ...VM_TYPES]);
  const minimum = options.minimum === undefined ? undefined : oneOf('options.minimum', options.minimum, TIERS);
  const guestMemfd =
    options.guestMemfd === undefined
      ? undefined
      : oneOf('options.guestMemfd', options.guestMemfd, ['none', 'plain', 'mapped']);
  const candidates = (type === 'auto' ? [...TIERS] : tiersOfType(type))
    .filter((tier) => minimum === undefined || isAtLeast(tier, minimum))
    .filter((tier) => guestMemfd === undefined || TIER_FACTS[tier].guestMemfd === guestMemfd);
  if (candidates.length > 0) return candidates;
  if (minimum !== undefined)
    throw rangeError(
      `a tier that type '${type}'${guestMemfd === undefined ? '' : ` with a ${guestMemfd} guest_memfd`} can reach`,
      'options.minimum',
      minimum,
    );
  throw rangeError(`a use of guest_memfd that type '${type}' has`, 'options.guestMemfd', guestMemfd);
}

function takeFirst(
  kvm: Kvm,
  candidates: readonly Tier[],
  auto: boolean,
): { vm: Vm; tier: Tier; refusals: TierRefusal[] } {
  const host = new Host();
  const refusals: TierRefusal[] = [];
  for (const tier of candidates) {
    const { vm, refusal } = tryTier(kvm, tier, host, { needLaunch: auto });
    if (vm !== undefined) return { vm, tier, refusals };
    refusals.push(refusal);
  }
  const list = refusals.map(
    ({ tier, reason, evidence, remedy }) => `\n  ${tier}: ${reason} (${evidence}). Needed: ${remedy}`,
  );
  throw new KvmUnsupportedError(
    `This host can make no VM of ${refusals.length === 1 ? 'tier' : 'any of the tiers'} ` +
      `${candidates.join(', ')}:${list.join('')}`,
    candidates.at(-1) ?? 'default',
  );
}
