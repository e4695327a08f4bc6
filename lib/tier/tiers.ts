/** The tiers of guest memory protection, strongest first, and what each stands on. Pure. docs/vm-types.md explains them. */

/** The VM types of KVM_CREATE_VM, by this package's names. */
export type TierVmType = 'default' | 'sw-protected' | 'sev' | 'sev-es' | 'snp' | 'tdx';

/** How the guest_memfd of a tier is used: none, without a host mapping, or with one. */
export type TierGuestMemfd = 'none' | 'plain' | 'mapped';

export const TIERS = [
  'tdx',
  'snp',
  'sev-es',
  'sev',
  'sw-protected',
  'default-mapped-guest-memfd',
  'default-guest-memfd',
  'default',
] as const;

/** What a VM is made of, strongest first in TIERS. */
export type Tier = (typeof TIERS)[number];

export interface TierFacts {
  readonly vmType: TierVmType;
  readonly guestMemfd: TierGuestMemfd;
  /** Whether guest pages can be private: out of reach of every mapping that the host process has. */
  readonly privateMemory: boolean;
  /** Whether hardware keeps the host kernel out as well. */
  readonly confidential: boolean;
  /** Whether this package can bring such a VM up. Where it cannot, `createVm({ type: 'auto' })` passes it over. */
  readonly launch: boolean;
  /** One sentence on what it protects from. */
  readonly protects: string;
}

const hardware = (vmType: TierVmType, guestMemfd: TierGuestMemfd, protects: string): TierFacts => ({
  vmType,
  guestMemfd,
  privateMemory: true,
  confidential: true,
  launch: false,
  protects,
});

export const TIER_FACTS: Readonly<Record<Tier, TierFacts>> = {
  tdx: hardware('tdx', 'plain', 'Intel TDX: memory and registers from the host, with attestation'),
  snp: hardware('snp', 'plain', 'AMD SEV-SNP: memory, its integrity and registers from the host, with attestation'),
  'sev-es': hardware('sev-es', 'none', 'AMD SEV-ES: memory content and registers from being read by the host'),
  sev: hardware('sev', 'none', 'AMD SEV: memory content from being read by the host'),
  'sw-protected': {
    vmType: 'sw-protected',
    guestMemfd: 'plain',
    privateMemory: true,
    confidential: false,
    launch: true,
    protects: 'private pages from the host process; nothing from the host kernel: it is for testing',
  },
  'default-mapped-guest-memfd': {
    vmType: 'default',
    guestMemfd: 'mapped',
    privateMemory: false,
    confidential: false,
    launch: true,
    protects: 'nothing: the guest runs on a guest_memfd that the host process maps and reads',
  },
  'default-guest-memfd': {
    vmType: 'default',
    guestMemfd: 'plain',
    privateMemory: false,
    confidential: false,
    launch: true,
    protects: 'nothing: a guest_memfd can be bound, and the guest runs on ordinary host memory',
  },
  default: {
    vmType: 'default',
    guestMemfd: 'none',
    privateMemory: false,
    confidential: false,
    launch: true,
    protects: 'nothing: the guest runs on ordinary host memory',
  },
};

/** Why a tier was not taken. */
export interface TierRefusal {
  readonly tier: Tier;
  /** One sentence. */
  readonly reason: string;
  /** What said so: the ioctl with its errno, or the capability with its value. */
  readonly evidence: string;
  /** What would change it: a module parameter, a kernel option, a BIOS setting, a permission. */
  readonly remedy: string;
}

/** True where `tier` is as strong as `minimum` or stronger. */
export function isAtLeast(tier: Tier, minimum: Tier): boolean {
  return TIERS.indexOf(tier) <= TIERS.indexOf(minimum);
}

/** The strongest tier of a VM type. */
export function tiersOfType(vmType: TierVmType): Tier[] {
  return TIERS.filter((tier) => TIER_FACTS[tier].vmType === vmType);
}
