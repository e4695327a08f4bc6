/** The registers of a vCPU, as the GET and SET ioctls of a vCPU carry them. */
import { struct, nested } from './codec.ts';
import type { Decoded } from './codec.ts';
import { array, bool8, bytes, u16, u32, u64, u8 } from './fields.ts';

export const kvmRegs = struct('kvm_regs', 144, {
  rax: u64(0),
  rbx: u64(8),
  rcx: u64(16),
  rdx: u64(24),
  rsi: u64(32),
  rdi: u64(40),
  rsp: u64(48),
  rbp: u64(56),
  r8: u64(64),
  r9: u64(72),
  r10: u64(80),
  r11: u64(88),
  r12: u64(96),
  r13: u64(104),
  r14: u64(112),
  r15: u64(120),
  rip: u64(128),
  rflags: u64(136),
});
/** The general registers, *KVM_GET_REGS*. */
export interface Regs extends Decoded<typeof kvmRegs> {}

export const kvmSegment = struct('kvm_segment', 24, {
  base: u64(0),
  limit: u32(8),
  selector: u16(12),
  /** The 4-bit type of the descriptor. */
  type: u8(14),
  present: bool8(15),
  dpl: u8(16),
  db: bool8(17),
  s: bool8(18),
  l: bool8(19),
  g: bool8(20),
  avl: bool8(21),
  unusable: bool8(22),
});
/** A segment register with its hidden part. */
export interface Segment extends Decoded<typeof kvmSegment> {}

export const kvmDtable = struct('kvm_dtable', 16, { base: u64(0), limit: u16(8) });
/** The GDT or IDT register. */
export interface Dtable extends Decoded<typeof kvmDtable> {}

const segmentsAndControl = {
  cs: nested(0, kvmSegment),
  ds: nested(24, kvmSegment),
  es: nested(48, kvmSegment),
  fs: nested(72, kvmSegment),
  gs: nested(96, kvmSegment),
  ss: nested(120, kvmSegment),
  tr: nested(144, kvmSegment),
  ldt: nested(168, kvmSegment),
  gdt: nested(192, kvmDtable),
  idt: nested(208, kvmDtable),
  cr0: u64(224),
  cr2: u64(232),
  cr3: u64(240),
  cr4: u64(248),
  cr8: u64(256),
  efer: u64(264),
  apicBase: u64(272),
};

export const kvmSregs = struct('kvm_sregs', 312, {
  ...segmentsAndControl,
  /** One bit per vector; a bit that is set injects that interrupt, where there is no irqchip in the kernel. */
  interruptBitmap: array(280, u64(0), 4),
});
/** Segment and control registers, *KVM_GET_SREGS*. */
export interface Sregs extends Decoded<typeof kvmSregs> {}

export const kvmSregs2 = struct('kvm_sregs2', 320, {
  ...segmentsAndControl,
  /** KVM_SREGS2_FLAGS_PDPTRS_VALID. */
  flags: u64(280),
  pdptrs: array(288, u64(0), 4),
});
/** The same with the page-directory pointers of PAE paging, and without the interrupt bitmap: *KVM_GET_SREGS2*. */
export interface Sregs2 extends Decoded<typeof kvmSregs2> {}

export const kvmFpu = struct('kvm_fpu', 416, {
  fpr: array(0, bytes(0, 16), 8),
  fcw: u16(128),
  fsw: u16(130),
  /** The tag word in the short form of FXSAVE: one bit per register. */
  ftwx: u8(132),
  lastOpcode: u16(134),
  lastIp: u64(136),
  lastDp: u64(144),
  xmm: array(152, bytes(0, 16), 16),
  mxcsr: u32(408),
});
/** x87 and SSE registers, *KVM_GET_FPU*. */
export interface Fpu extends Decoded<typeof kvmFpu> {}

export const kvmLapicState = struct('kvm_lapic_state', 1024, { regs: bytes(0, 1024) });
/** The local APIC's register page, *KVM_GET_LAPIC*. */
export interface LapicState extends Decoded<typeof kvmLapicState> {}

/** KVM_GET_XSAVE2 may write more than this struct holds: KVM_CAP_XSAVE2 of the VM says how much. */
export const kvmXsave = struct('kvm_xsave', 4096, { region: bytes(0, 4096) });
export interface Xsave extends Decoded<typeof kvmXsave> {}

export const kvmXcr = struct('kvm_xcr', 16, { xcr: u32(0), value: u64(8) });
export interface Xcr extends Decoded<typeof kvmXcr> {}

export const kvmXcrs = struct('kvm_xcrs', 392, {
  /** How many of `xcrs` count. */
  nrXcrs: u32(0),
  flags: u32(4),
  xcrs: array(8, nested(0, kvmXcr), 16),
});
/** The extended control registers, *KVM_GET_XCRS*. */
export interface Xcrs extends Decoded<typeof kvmXcrs> {}

export const kvmDebugregs = struct('kvm_debugregs', 128, {
  db: array(0, u64(0), 4),
  dr6: u64(32),
  dr7: u64(40),
  /** Must be 0. */
  flags: u64(48),
});
/** The debug registers, *KVM_GET_DEBUGREGS*. */
export interface Debugregs extends Decoded<typeof kvmDebugregs> {}
