/** Flags and enumerations of vCPU state and of KVM_RUN. The type of a flag is that of its field. */

/** `flags` of kvm_run. */
export const KVM_RUN_X86_SMM = 1;
export const KVM_RUN_X86_BUS_LOCK = 2;
export const KVM_RUN_X86_GUEST_MODE = 4;

/** Register classes of the sync area in kvm_run. */
export const KVM_SYNC_X86_REGS = 1n;
export const KVM_SYNC_X86_SREGS = 2n;
export const KVM_SYNC_X86_EVENTS = 4n;

export const KVM_EXIT_IO_IN = 0;
export const KVM_EXIT_IO_OUT = 1;

/** In the flags of a KVM_EXIT_HYPERCALL: the caller was in 64-bit mode. */
export const KVM_EXIT_HYPERCALL_LONG_MODE = 1n;

/** `suberror` of a KVM_EXIT_INTERNAL_ERROR. */
export const KVM_INTERNAL_ERROR_EMULATION = 1;
export const KVM_INTERNAL_ERROR_SIMUL_EX = 2;
export const KVM_INTERNAL_ERROR_DELIVERY_EV = 3;
export const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4;
export const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1n;

/** `type` of a KVM_EXIT_SYSTEM_EVENT. */
export const KVM_SYSTEM_EVENT_SHUTDOWN = 1;
export const KVM_SYSTEM_EVENT_RESET = 2;
export const KVM_SYSTEM_EVENT_CRASH = 3;
export const KVM_SYSTEM_EVENT_WAKEUP = 4;
export const KVM_SYSTEM_EVENT_SUSPEND = 5;
export const KVM_SYSTEM_EVENT_SEV_TERM = 6;
export const KVM_SYSTEM_EVENT_TDX_FATAL = 7;

export const KVM_NOTIFY_CONTEXT_INVALID = 1;

/** `type` of a KVM_EXIT_HYPERV and of a KVM_EXIT_XEN. */
export const KVM_EXIT_HYPERV_SYNIC = 1;
export const KVM_EXIT_HYPERV_HCALL = 2;
export const KVM_EXIT_HYPERV_SYNDBG = 3;
export const KVM_EXIT_XEN_HCALL = 1;

export const KVM_MP_STATE_RUNNABLE = 0;
export const KVM_MP_STATE_UNINITIALIZED = 1;
export const KVM_MP_STATE_INIT_RECEIVED = 2;
export const KVM_MP_STATE_HALTED = 3;
export const KVM_MP_STATE_SIPI_RECEIVED = 4;
export const KVM_MP_STATE_AP_RESET_HOLD = 9;

/** `control` of KVM_SET_GUEST_DEBUG. */
export const KVM_GUESTDBG_ENABLE = 0x1;
export const KVM_GUESTDBG_SINGLESTEP = 0x2;
export const KVM_GUESTDBG_USE_SW_BP = 0x1_0000;
export const KVM_GUESTDBG_USE_HW_BP = 0x2_0000;
export const KVM_GUESTDBG_INJECT_DB = 0x4_0000;
export const KVM_GUESTDBG_INJECT_BP = 0x8_0000;
export const KVM_GUESTDBG_BLOCKIRQ = 0x10_0000;

/** Which parts of kvm_vcpu_events KVM_SET_VCPU_EVENTS takes. */
export const KVM_VCPUEVENT_VALID_NMI_PENDING = 1;
export const KVM_VCPUEVENT_VALID_SIPI_VECTOR = 2;
export const KVM_VCPUEVENT_VALID_SHADOW = 4;
export const KVM_VCPUEVENT_VALID_SMM = 8;
/** Needs KVM_CAP_EXCEPTION_PAYLOAD. */
export const KVM_VCPUEVENT_VALID_PAYLOAD = 16;
/** Needs KVM_CAP_X86_TRIPLE_FAULT_EVENT. */
export const KVM_VCPUEVENT_VALID_TRIPLE_FAULT = 32;
export const KVM_X86_SHADOW_INT_MOV_SS = 1;
export const KVM_X86_SHADOW_INT_STI = 2;

export const KVM_SREGS2_FLAGS_PDPTRS_VALID = 1n;

/** The kernel's spelling. */
export const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1;

/** In bytes. */
export const KVM_APIC_REG_SIZE = 0x400;
export const KVM_MAX_XCRS = 16;

export const KVM_STATE_NESTED_FORMAT_VMX = 0;
export const KVM_STATE_NESTED_FORMAT_SVM = 1;
export const KVM_STATE_NESTED_GUEST_MODE = 0x1;
export const KVM_STATE_NESTED_RUN_PENDING = 0x2;
export const KVM_STATE_NESTED_EVMCS = 0x4;
export const KVM_STATE_NESTED_MTF_PENDING = 0x8;
export const KVM_STATE_NESTED_GIF_SET = 0x100;
export const KVM_STATE_NESTED_VMX_VMCS_SIZE = 0x1000;
export const KVM_STATE_NESTED_SVM_VMCB_SIZE = 0x1000;

/** Identifiers of KVM_GET_ONE_REG: architecture, size of the value, then the register. */
export const KVM_REG_ARCH_MASK = 0xff00_0000_0000_0000n;
export const KVM_REG_X86 = 0x2000_0000_0000_0000n;
export const KVM_REG_SIZE_SHIFT = 52;
export const KVM_REG_SIZE_MASK = 0x00f0_0000_0000_0000n;
export const KVM_REG_SIZE_U32 = 0x0020_0000_0000_0000n;
export const KVM_REG_SIZE_U64 = 0x0030_0000_0000_0000n;
