/**
 * Flags and enumerations of VMs and memory. A flag has the type of the field that it goes into: bigint for a 64-bit one
 * (an argument of KVM_ENABLE_CAP is one), number for the others.
 */

export const KVM_API_VERSION = 12;

/** Arguments of KVM_CREATE_VM. */
export const KVM_X86_DEFAULT_VM = 0;
export const KVM_X86_SW_PROTECTED_VM = 1;
export const KVM_X86_SEV_VM = 2;
export const KVM_X86_SEV_ES_VM = 3;
export const KVM_X86_SNP_VM = 4;
export const KVM_X86_TDX_VM = 5;

/** Memslot flags, 32 bits. */
export const KVM_MEM_LOG_DIRTY_PAGES = 1;
export const KVM_MEM_READONLY = 2;
export const KVM_MEM_GUEST_MEMFD = 4;

/** Flags of KVM_CREATE_GUEST_MEMFD; KVM_CAP_GUEST_MEMFD_FLAGS says which of them a VM takes. */
export const GUEST_MEMFD_FLAG_MMAP = 1n;
export const GUEST_MEMFD_FLAG_INIT_SHARED = 2n;

export const KVM_MEMORY_ATTRIBUTE_PRIVATE = 8n;
/** In the flags of a KVM_EXIT_MEMORY_FAULT. */
export const KVM_MEMORY_EXIT_FLAG_PRIVATE = 8n;

/** Argument of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
export const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1n;
export const KVM_DIRTY_LOG_INITIALLY_SET = 2n;

/** Flags of a dirty-ring entry. */
export const KVM_DIRTY_GFN_F_DIRTY = 1;
export const KVM_DIRTY_GFN_F_RESET = 2;

/** Pages of a vCPU's mapping, counted from its start. */
export const KVM_PIO_PAGE_OFFSET = 1;
export const KVM_COALESCED_MMIO_PAGE_OFFSET = 2;
export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;

/** Argument of KVM_CAP_X2APIC_API. */
export const KVM_X2APIC_API_USE_32BIT_IDS = 1n;
export const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK = 2n;

/** Argument of KVM_CAP_X86_DISABLE_EXITS. */
export const KVM_X86_DISABLE_EXITS_MWAIT = 1n;
export const KVM_X86_DISABLE_EXITS_HLT = 2n;
export const KVM_X86_DISABLE_EXITS_PAUSE = 4n;
export const KVM_X86_DISABLE_EXITS_CSTATE = 8n;
export const KVM_X86_DISABLE_EXITS_APERFMPERF = 16n;

/** Argument of KVM_CAP_DISABLE_QUIRKS2. */
export const KVM_X86_QUIRK_LINT0_REENABLED = 1n;
export const KVM_X86_QUIRK_CD_NW_CLEARED = 2n;
export const KVM_X86_QUIRK_LAPIC_MMIO_HOLE = 4n;
export const KVM_X86_QUIRK_OUT_7E_INC_RIP = 8n;
export const KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT = 16n;
export const KVM_X86_QUIRK_FIX_HYPERCALL_INSN = 32n;
export const KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS = 64n;
export const KVM_X86_QUIRK_SLOT_ZAP_ALL = 128n;
export const KVM_X86_QUIRK_STUFF_FEATURE_MSRS = 256n;
export const KVM_X86_QUIRK_IGNORE_GUEST_PAT = 512n;
export const KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM = 1024n;

/** Argument of KVM_CAP_X86_BUS_LOCK_EXIT. */
export const KVM_BUS_LOCK_DETECTION_OFF = 1n;
export const KVM_BUS_LOCK_DETECTION_EXIT = 2n;

/** Argument of KVM_CAP_PMU_CAPABILITY. */
export const KVM_PMU_CAP_DISABLE = 1n;

/** Argument of KVM_CAP_X86_NOTIFY_VMEXIT, with the window in the upper 32 bits. */
export const KVM_X86_NOTIFY_VMEXIT_ENABLED = 1n;
export const KVM_X86_NOTIFY_VMEXIT_USER = 2n;

/** Argument of KVM_CAP_X86_USER_SPACE_MSR, and `reason` of the exits that it makes. */
export const KVM_MSR_EXIT_REASON_INVAL = 1;
export const KVM_MSR_EXIT_REASON_UNKNOWN = 2;
export const KVM_MSR_EXIT_REASON_FILTER = 4;

export const KVM_MSR_FILTER_DEFAULT_ALLOW = 0;
export const KVM_MSR_FILTER_DEFAULT_DENY = 1;
export const KVM_MSR_FILTER_READ = 1;
export const KVM_MSR_FILTER_WRITE = 2;
export const KVM_MSR_FILTER_MAX_RANGES = 16;
/** In bytes. */
export const KVM_MSR_FILTER_MAX_BITMAP_SIZE = 0x600;

export const KVM_PMU_EVENT_ALLOW = 0;
export const KVM_PMU_EVENT_DENY = 1;
export const KVM_PMU_EVENT_FLAG_MASKED_EVENTS = 1;

/** Flags of kvm_clock_data. */
export const KVM_CLOCK_TSC_STABLE = 2;
export const KVM_CLOCK_REALTIME = 4;
export const KVM_CLOCK_HOST_TSC = 8;

/** Device attributes of the system descriptor. */
export const KVM_X86_GRP_SYSTEM = 0;
export const KVM_X86_XCOMP_GUEST_SUPP = 0;
export const KVM_X86_GRP_SEV = 1;
export const KVM_X86_SEV_VMSA_FEATURES = 0;
export const KVM_X86_SNP_POLICY_BITS = 1;
/** Device attributes of a vCPU. */
export const KVM_VCPU_TSC_CTRL = 0;
export const KVM_VCPU_TSC_OFFSET = 0;

export const KVM_CREATE_DEVICE_TEST = 1;
export const KVM_DEV_TYPE_VFIO = 4;

/** The parts of a binary statistic's `flags`. */
export const KVM_STATS_TYPE_MASK = 0xf;
export const KVM_STATS_TYPE_CUMULATIVE = 0;
export const KVM_STATS_TYPE_INSTANT = 1;
export const KVM_STATS_TYPE_PEAK = 2;
export const KVM_STATS_TYPE_LINEAR_HIST = 3;
export const KVM_STATS_TYPE_LOG_HIST = 4;
export const KVM_STATS_UNIT_SHIFT = 4;
export const KVM_STATS_UNIT_MASK = 0xf0;
export const KVM_STATS_UNIT_NONE = 0x00;
export const KVM_STATS_UNIT_BYTES = 0x10;
export const KVM_STATS_UNIT_SECONDS = 0x20;
export const KVM_STATS_UNIT_CYCLES = 0x30;
export const KVM_STATS_UNIT_BOOLEAN = 0x40;
export const KVM_STATS_BASE_SHIFT = 8;
export const KVM_STATS_BASE_MASK = 0xf00;
export const KVM_STATS_BASE_POW10 = 0x000;
export const KVM_STATS_BASE_POW2 = 0x100;
