/**
 * The page that a vCPU shares with user space (kvm_run). All offsets count from its start: one table for what every
 * exit has, and one for each exit reason's part of the union at 32.
 */
import { nested, struct } from './codec.ts';
import type { Decoded } from './codec.ts';
import { array, bool8, bytes, u16, u32, u64, u8 } from './fields.ts';
import type { Fields } from './fields.ts';
import { kvmVcpuEvents } from './vcpu-control.ts';
import { kvmRegs, kvmSregs } from './vcpu-state.ts';

export const KVM_RUN_SIZE = 2352;

/** Where the members are, for those that touch one of them at a time. */
export const RUN = {
  requestInterruptWindow: 0,
  immediateExit: 1,
  exitReason: 8,
  readyForInterruptInjection: 12,
  ifFlag: 13,
  flags: 14,
  cr8: 16,
  apicBase: 24,
  exit: 32,
  validRegs: 288,
  dirtyRegs: 296,
  syncRegs: 304,
  syncSregs: 448,
  syncEvents: 760,
} as const;

export const kvmRun = struct(
  'kvm_run',
  KVM_RUN_SIZE,
  {
    requestInterruptWindow: u8(RUN.requestInterruptWindow),
    immediateExit: u8(RUN.immediateExit),
    exitReason: u32(RUN.exitReason),
    readyForInterruptInjection: bool8(RUN.readyForInterruptInjection),
    ifFlag: bool8(RUN.ifFlag),
    /** KVM_RUN_X86_*. */
    flags: u16(RUN.flags),
    cr8: u64(RUN.cr8),
    apicBase: u64(RUN.apicBase),
    kvmValidRegs: u64(RUN.validRegs),
    kvmDirtyRegs: u64(RUN.dirtyRegs),
  },
  'run',
);

/** The sync area, which KVM fills and takes by the bits of KVM_SYNC_X86_*. */
export const kvmRunSync = struct(
  'kvm_run',
  KVM_RUN_SIZE,
  {
    regs: nested(RUN.syncRegs, kvmRegs, 's.regs.regs'),
    sregs: nested(RUN.syncSregs, kvmSregs, 's.regs.sregs'),
    events: nested(RUN.syncEvents, kvmVcpuEvents, 's.regs.events'),
  },
  'run',
);

function exit<F extends Fields>(fields: F) {
  return struct('kvm_run', KVM_RUN_SIZE, fields, 'run');
}

export const exitUnknown = exit({ hardwareExitReason: u64(32, 'hw.hardware_exit_reason') });
export const exitException = exit({ exception: u32(32, 'ex.exception'), errorCode: u32(36, 'ex.error_code') });
export const exitIo = exit({
  /** KVM_EXIT_IO_IN or _OUT. */
  direction: u8(32, 'io.direction'),
  /** In bytes, of one access. */
  size: u8(33, 'io.size'),
  port: u16(34, 'io.port'),
  count: u32(36, 'io.count'),
  /** In bytes, from the start of kvm_run; `size * count` bytes are there. */
  dataOffset: u64(40, 'io.data_offset'),
});
export const exitHypercall = exit({
  nr: u64(32, 'hypercall.nr'),
  args: array(40, u64(0), 6, 'hypercall.args'),
  ret: u64(88, 'hypercall.ret'),
  flags: u64(96, 'hypercall.flags'),
});
export const exitDebug = exit({
  exception: u32(32, 'debug.arch.exception'),
  pc: u64(40, 'debug.arch.pc'),
  dr6: u64(48, 'debug.arch.dr6'),
  dr7: u64(56, 'debug.arch.dr7'),
});
export const exitMmio = exit({
  physAddr: u64(32, 'mmio.phys_addr'),
  data: bytes(40, 8, 'mmio.data'),
  len: u32(48, 'mmio.len'),
  isWrite: bool8(52, 'mmio.is_write'),
});
export const exitFailEntry = exit({
  hardwareEntryFailureReason: u64(32, 'fail_entry.hardware_entry_failure_reason'),
  cpu: u32(40, 'fail_entry.cpu'),
});
export const exitTprAccess = exit({ rip: u64(32, 'tpr_access.rip'), isWrite: u32(40, 'tpr_access.is_write') });
export const exitInternalError = exit({
  suberror: u32(32, 'internal.suberror'),
  /** How many of `data` count. */
  ndata: u32(36, 'internal.ndata'),
  data: array(40, u64(0), 16, 'internal.data'),
});
/** An internal error with suberror KVM_INTERNAL_ERROR_EMULATION. */
export const exitEmulationFailure = exit({
  suberror: u32(32, 'emulation_failure.suberror'),
  ndata: u32(36, 'emulation_failure.ndata'),
  flags: u64(40, 'emulation_failure.flags'),
  insnSize: u8(48, 'emulation_failure.insn_size'),
  insnBytes: bytes(49, 15, 'emulation_failure.insn_bytes'),
});
export const exitSystemEvent = exit({
  type: u32(32, 'system_event.type'),
  ndata: u32(36, 'system_event.ndata'),
  data: array(40, u64(0), 16, 'system_event.data'),
});
export const exitIoapicEoi = exit({ vector: u8(32, 'eoi.vector') });
/** KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR. */
export const exitMsr = exit({
  /** Written by user space: other than 0 injects #GP. */
  error: u8(32, 'msr.error'),
  /** KVM_MSR_EXIT_REASON_*. */
  reason: u32(40, 'msr.reason'),
  index: u32(44, 'msr.index'),
  data: u64(48, 'msr.data'),
});
export const exitHyperv = exit({ type: u32(32, 'hyperv.type'), u: bytes(40, 48, 'hyperv.u') });
export const exitXen = exit({
  type: u32(32, 'xen.type'),
  longmode: u32(40, 'xen.u.hcall.longmode'),
  cpl: u32(44, 'xen.u.hcall.cpl'),
  input: u64(48, 'xen.u.hcall.input'),
  result: u64(56, 'xen.u.hcall.result'),
  params: array(64, u64(0), 6, 'xen.u.hcall.params'),
});
export const exitNotify = exit({ flags: u32(32, 'notify.flags') });
export const exitMemoryFault = exit({
  flags: u64(32, 'memory_fault.flags'),
  gpa: u64(40, 'memory_fault.gpa'),
  size: u64(48, 'memory_fault.size'),
});
/** `nr` says what the words from 56 on mean; `ret` is written by user space. */
export const exitTdx = exit({
  flags: u64(32, 'tdx.flags'),
  nr: u64(40, 'tdx.nr'),
  ret: u64(48, 'tdx.unknown.ret'),
  data: array(56, u64(0), 5, 'tdx.unknown.data'),
});
export const exitSnpReqCerts = exit({
  gpa: u64(32, 'snp_req_certs.gpa'),
  npages: u64(40, 'snp_req_certs.npages'),
  ret: u64(48, 'snp_req_certs.ret'),
});

/** What every exit has. */
export interface RunState extends Decoded<typeof kvmRun> {}
