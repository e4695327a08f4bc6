/** What a guest sees of KVM: CPUID leaves and features, hypercalls and their results. */

export const KVM_CPUID_SIGNATURE = 0x4000_0000;
export const KVM_CPUID_FEATURES = 0x4000_0001;

/** Bits of EAX of KVM_CPUID_FEATURES. */
export const KVM_FEATURE_CLOCKSOURCE = 0;
export const KVM_FEATURE_NOP_IO_DELAY = 1;
export const KVM_FEATURE_MMU_OP = 2;
export const KVM_FEATURE_CLOCKSOURCE2 = 3;
export const KVM_FEATURE_ASYNC_PF = 4;
export const KVM_FEATURE_STEAL_TIME = 5;
export const KVM_FEATURE_PV_EOI = 6;
export const KVM_FEATURE_PV_UNHALT = 7;
export const KVM_FEATURE_PV_TLB_FLUSH = 9;
export const KVM_FEATURE_ASYNC_PF_VMEXIT = 10;
export const KVM_FEATURE_PV_SEND_IPI = 11;
export const KVM_FEATURE_POLL_CONTROL = 12;
export const KVM_FEATURE_PV_SCHED_YIELD = 13;
export const KVM_FEATURE_ASYNC_PF_INT = 14;
export const KVM_FEATURE_MSI_EXT_DEST_ID = 15;
/** Only to be shown to a guest once hypercall exits are enabled. */
export const KVM_FEATURE_HC_MAP_GPA_RANGE = 16;
export const KVM_FEATURE_MIGRATION_CONTROL = 17;
export const KVM_FEATURE_CLOCKSOURCE_STABLE_BIT = 24;
/** Bit of EDX of KVM_CPUID_FEATURES. */
export const KVM_HINTS_REALTIME = 0;

/** Hypercall numbers (RAX); the mask of KVM_CAP_EXIT_HYPERCALL has the bit of each number that exits. */
export const KVM_HC_VAPIC_POLL_IRQ = 1;
export const KVM_HC_KICK_CPU = 5;
export const KVM_HC_CLOCK_PAIRING = 9;
export const KVM_HC_SEND_IPI = 10;
export const KVM_HC_SCHED_YIELD = 11;
export const KVM_HC_MAP_GPA_RANGE = 12;

/** The attributes of KVM_HC_MAP_GPA_RANGE (RDX): page size, and private (encrypted) or shared (decrypted). */
export const KVM_MAP_GPA_RANGE_PAGE_SZ_4K = 0n;
export const KVM_MAP_GPA_RANGE_PAGE_SZ_2M = 1n;
export const KVM_MAP_GPA_RANGE_PAGE_SZ_1G = 2n;
export const KVM_MAP_GPA_RANGE_ENCRYPTED = 16n;
export const KVM_MAP_GPA_RANGE_DECRYPTED = 0n;

/** Error numbers that a guest gets from a hypercall, negated. Only the first is not an errno of Linux. */
export const KVM_ENOSYS = 1000n;
export const KVM_EFAULT = 14n;
export const KVM_EINVAL = 22n;
export const KVM_E2BIG = 7n;
export const KVM_EPERM = 1n;
export const KVM_EOPNOTSUPP = 95n;
