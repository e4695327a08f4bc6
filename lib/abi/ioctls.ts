/**
 * The ioctl numbers of KVM on x86-64. A number holds direction, size and sequence number, so that two requests that
 * share the last (KVM_GET_PIT2 and KVM_GET_VCPU_EVENTS, say) still differ, and a number names its request without
 * asking what kind of descriptor it was made on. Grouped by that kind all the same.
 */

// The system descriptor, /dev/kvm.
export const KVM_GET_API_VERSION = 0xae00;
export const KVM_CREATE_VM = 0xae01;
export const KVM_GET_MSR_INDEX_LIST = 0xc004ae02;
export const KVM_GET_MSR_FEATURE_INDEX_LIST = 0xc004ae0a;
/** Also on a VM, whose answer counts. */
export const KVM_CHECK_EXTENSION = 0xae03;
export const KVM_GET_VCPU_MMAP_SIZE = 0xae04;
export const KVM_GET_SUPPORTED_CPUID = 0xc008ae05;
export const KVM_GET_EMULATED_CPUID = 0xc008ae09;
/** Also on a vCPU. */
export const KVM_GET_SUPPORTED_HV_CPUID = 0xc008aec1;
export const KVM_X86_GET_MCE_CAP_SUPPORTED = 0x8008ae9d;

// A VM: memory.
export const KVM_CREATE_VCPU = 0xae41;
export const KVM_GET_DIRTY_LOG = 0x4010ae42;
export const KVM_CLEAR_DIRTY_LOG = 0xc018aec0;
export const KVM_RESET_DIRTY_RINGS = 0xaec7;
export const KVM_SET_NR_MMU_PAGES = 0xae44;
export const KVM_SET_USER_MEMORY_REGION = 0x4020ae46;
export const KVM_SET_USER_MEMORY_REGION2 = 0x40a0ae49;
export const KVM_SET_MEMORY_ATTRIBUTES = 0x4020aed2;
export const KVM_CREATE_GUEST_MEMFD = 0xc040aed4;
export const KVM_SET_TSS_ADDR = 0xae47;
export const KVM_SET_IDENTITY_MAP_ADDR = 0x4008ae48;
export const KVM_MEMORY_ENCRYPT_OP = 0xc008aeba;
/** Encoded as a read, though the kernel only takes input. */
export const KVM_MEMORY_ENCRYPT_REG_REGION = 0x8010aebb;
export const KVM_MEMORY_ENCRYPT_UNREG_REGION = 0x8010aebc;

// A VM: interrupts, timers, devices.
export const KVM_CREATE_IRQCHIP = 0xae60;
export const KVM_IRQ_LINE = 0x4008ae61;
export const KVM_IRQ_LINE_STATUS = 0xc008ae67;
export const KVM_GET_IRQCHIP = 0xc208ae62;
/** Encoded as a read, though the kernel only takes input. */
export const KVM_SET_IRQCHIP = 0x8208ae63;
export const KVM_CREATE_PIT2 = 0x4040ae77;
export const KVM_GET_PIT2 = 0x8070ae9f;
export const KVM_SET_PIT2 = 0x4070aea0;
export const KVM_REINJECT_CONTROL = 0xae71;
export const KVM_SET_BOOT_CPU_ID = 0xae78;
export const KVM_SET_GSI_ROUTING = 0x4008ae6a;
export const KVM_IRQFD = 0x4020ae76;
export const KVM_IOEVENTFD = 0x4040ae79;
export const KVM_SIGNAL_MSI = 0x4020aea5;
export const KVM_REGISTER_COALESCED_MMIO = 0x4010ae67;
export const KVM_UNREGISTER_COALESCED_MMIO = 0x4010ae68;
export const KVM_SET_CLOCK = 0x4030ae7b;
export const KVM_GET_CLOCK = 0x8030ae7c;
export const KVM_X86_SET_MSR_FILTER = 0x4188aec6;
export const KVM_SET_PMU_EVENT_FILTER = 0x4020aeb2;
export const KVM_CREATE_DEVICE = 0xc00caee0;

// A VM or a vCPU.
export const KVM_ENABLE_CAP = 0x4068aea3;
export const KVM_SET_TSC_KHZ = 0xaea2;
export const KVM_GET_TSC_KHZ = 0xaea3;
export const KVM_GET_STATS_FD = 0xaece;

// A device, a vCPU, and (all but SET) the system descriptor.
export const KVM_SET_DEVICE_ATTR = 0x4018aee1;
export const KVM_GET_DEVICE_ATTR = 0x4018aee2;
export const KVM_HAS_DEVICE_ATTR = 0x4018aee3;

// A vCPU.
export const KVM_RUN = 0xae80;
export const KVM_PRE_FAULT_MEMORY = 0xc040aed5;
export const KVM_GET_REGS = 0x8090ae81;
export const KVM_SET_REGS = 0x4090ae82;
export const KVM_GET_SREGS = 0x8138ae83;
export const KVM_SET_SREGS = 0x4138ae84;
export const KVM_GET_SREGS2 = 0x8140aecc;
export const KVM_SET_SREGS2 = 0x4140aecd;
export const KVM_TRANSLATE = 0xc018ae85;
export const KVM_INTERRUPT = 0x4004ae86;
/** Also on the system descriptor, for feature MSRs. */
export const KVM_GET_MSRS = 0xc008ae88;
export const KVM_SET_MSRS = 0x4008ae89;
export const KVM_SET_CPUID2 = 0x4008ae90;
export const KVM_GET_CPUID2 = 0xc008ae91;
export const KVM_SET_SIGNAL_MASK = 0x4004ae8b;
export const KVM_GET_FPU = 0x81a0ae8c;
export const KVM_SET_FPU = 0x41a0ae8d;
export const KVM_GET_LAPIC = 0x8400ae8e;
export const KVM_SET_LAPIC = 0x4400ae8f;
export const KVM_TPR_ACCESS_REPORTING = 0xc028ae92;
export const KVM_SET_VAPIC_ADDR = 0x4008ae93;
export const KVM_GET_MP_STATE = 0x8004ae98;
export const KVM_SET_MP_STATE = 0x4004ae99;
export const KVM_NMI = 0xae9a;
export const KVM_SMI = 0xaeb7;
export const KVM_SET_GUEST_DEBUG = 0x4048ae9b;
export const KVM_X86_SETUP_MCE = 0x4008ae9c;
export const KVM_X86_SET_MCE = 0x4040ae9e;
export const KVM_GET_VCPU_EVENTS = 0x8040ae9f;
export const KVM_SET_VCPU_EVENTS = 0x4040aea0;
export const KVM_GET_DEBUGREGS = 0x8080aea1;
export const KVM_SET_DEBUGREGS = 0x4080aea2;
export const KVM_GET_XSAVE = 0x9000aea4;
export const KVM_SET_XSAVE = 0x5000aea5;
export const KVM_GET_XSAVE2 = 0x9000aecf;
export const KVM_GET_XCRS = 0x8188aea6;
export const KVM_SET_XCRS = 0x4188aea7;
export const KVM_GET_ONE_REG = 0x4010aeab;
export const KVM_SET_ONE_REG = 0x4010aeac;
export const KVM_GET_REG_LIST = 0xc008aeb0;
export const KVM_KVMCLOCK_CTRL = 0xaead;
export const KVM_GET_NESTED_STATE = 0xc080aebe;
export const KVM_SET_NESTED_STATE = 0x4080aebf;

/**
 * Attributes set on the guest_memfd itself, for conversion in place. Proposed and not merged: the number may change, so
 * nothing may use it without a capability that says so.
 */
export const KVM_SET_MEMORY_ATTRIBUTES2 = 0xc080aed2;
