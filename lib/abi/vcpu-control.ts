/** What is asked of a vCPU beside its registers: events, debugging, MSRs, CPUID, nested state. */
import { group, struct } from './codec.ts';
import type { Decoded } from './codec.ts';
import { array, bool8, bytes, u16, u32, u64, u8 } from './fields.ts';
import { list } from './list.ts';

export const kvmVcpuEvents = struct('kvm_vcpu_events', 64, {
  exception: group(0, 8, {
    injected: bool8(0),
    nr: u8(1),
    hasErrorCode: bool8(2),
    pending: bool8(3),
    errorCode: u32(4),
  }),
  interrupt: group(8, 4, {
    injected: bool8(0),
    nr: u8(1),
    soft: bool8(2),
    /** KVM_X86_SHADOW_INT_MOV_SS and KVM_X86_SHADOW_INT_STI. */
    shadow: u8(3),
  }),
  nmi: group(12, 4, { injected: bool8(0), pending: u8(1), masked: bool8(2) }),
  sipiVector: u32(16),
  /** KVM_VCPUEVENT_VALID_*: which of the optional parts are valid, or are to be set. */
  flags: u32(20),
  smi: group(24, 4, { smm: bool8(0), pending: bool8(1), smmInsideNmi: bool8(2), latchedInit: bool8(3) }),
  tripleFault: group(28, 1, { pending: bool8(0) }),
  exceptionHasPayload: bool8(55),
  exceptionPayload: u64(56),
});
/** Pending and injected events, *KVM_GET_VCPU_EVENTS*. */
export interface VcpuEvents extends Decoded<typeof kvmVcpuEvents> {}

export const kvmGuestDebug = struct('kvm_guest_debug', 72, {
  /** KVM_GUESTDBG_*. */
  control: u32(0),
  /** DR0 to DR7: addresses in the first four, DR7 in the last. */
  debugreg: array(8, u64(0), 8, 'arch.debugreg'),
});
/** *KVM_SET_GUEST_DEBUG*. */
export interface GuestDebug extends Decoded<typeof kvmGuestDebug> {}

export const kvmMpState = struct('kvm_mp_state', 4, { mpState: u32(0) });
/** KVM_MP_STATE_*, *KVM_GET_MP_STATE*. */
export interface MpState extends Decoded<typeof kvmMpState> {}

export const kvmTranslation = struct('kvm_translation', 24, {
  linearAddress: u64(0),
  physicalAddress: u64(8),
  valid: bool8(16),
  writeable: bool8(17),
  usermode: bool8(18),
});
/** *KVM_TRANSLATE*. */
export interface Translation extends Decoded<typeof kvmTranslation> {}

export const kvmInterrupt = struct('kvm_interrupt', 4, { irq: u32(0) });

export const kvmTprAccessCtl = struct('kvm_tpr_access_ctl', 40, { enabled: u32(0), flags: u32(4) });
export interface TprAccessCtl extends Decoded<typeof kvmTprAccessCtl> {}

export const kvmVapicAddr = struct('kvm_vapic_addr', 8, { vapicAddr: u64(0) });

export const kvmX86Mce = struct('kvm_x86_mce', 64, {
  status: u64(0),
  addr: u64(8),
  misc: u64(16),
  mcgStatus: u64(24),
  bank: u8(32),
});
/** A machine check to inject, *KVM_X86_SET_MCE*. */
export interface Mce extends Decoded<typeof kvmX86Mce> {}

export const kvmOneReg = struct('kvm_one_reg', 16, { id: u64(0), addr: u64(8) });
export interface OneReg extends Decoded<typeof kvmOneReg> {}

export const kvmPreFaultMemory = struct('kvm_pre_fault_memory', 64, {
  gpa: u64(0),
  size: u64(8),
  /** Must be 0. */
  flags: u64(16),
});
/** *KVM_PRE_FAULT_MEMORY*: the kernel advances `gpa` and shortens `size` by what it did. */
export interface PreFaultMemory extends Decoded<typeof kvmPreFaultMemory> {}

export const kvmMsrEntry = struct('kvm_msr_entry', 16, { index: u32(0), data: u64(8) });
export interface MsrEntry extends Decoded<typeof kvmMsrEntry> {}
/** At most 255 entries. */
export const kvmMsrs = list('kvm_msrs', 'nmsrs', 'entries', 8, kvmMsrEntry);

export const kvmCpuidEntry2 = struct('kvm_cpuid_entry2', 40, {
  function: u32(0),
  index: u32(4),
  /** KVM_CPUID_FLAG_SIGNIFCANT_INDEX. */
  flags: u32(8),
  eax: u32(12),
  ebx: u32(16),
  ecx: u32(20),
  edx: u32(24),
});
export interface CpuidEntry extends Decoded<typeof kvmCpuidEntry2> {}
/** At most 256 entries. */
export const kvmCpuid2 = list('kvm_cpuid2', 'nent', 'entries', 8, kvmCpuidEntry2);

/** The header of nested state; VMX has two pages of data behind it, SVM one. `format` says which of the two it is. */
export const kvmNestedState = struct('kvm_nested_state', 128, {
  /** KVM_STATE_NESTED_*. */
  flags: u16(0),
  /** KVM_STATE_NESTED_FORMAT_VMX or _SVM. */
  format: u16(2),
  /** Of header and data, in bytes. */
  size: u32(4),
  hdr: bytes(8, 120),
});
export interface NestedStateHeader extends Decoded<typeof kvmNestedState> {}

/** `hdr` of kvmNestedState where its format is VMX. */
export const kvmVmxNestedStateHdr = struct('kvm_vmx_nested_state_hdr', 32, {
  vmxonPa: u64(0),
  vmcs12Pa: u64(8),
  smmFlags: u16(16, 'smm.flags'),
  flags: u32(20),
  preemptionTimerDeadline: u64(24),
});
/** `hdr` of kvmNestedState where its format is SVM. */
export const kvmSvmNestedStateHdr = struct('kvm_svm_nested_state_hdr', 8, { vmcbPa: u64(0) });
