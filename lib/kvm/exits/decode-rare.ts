/** The exits that are not on the hot path. See decode.ts. */
import {
  exitDebug,
  exitEmulationFailure,
  exitException,
  exitFailEntry,
  exitHyperv,
  exitInternalError,
  exitIoapicEoi,
  exitNotify,
  exitSnpReqCerts,
  exitSystemEvent,
  exitTdx,
  exitTprAccess,
  exitUnknown,
  exitXen,
  KVM_INTERNAL_ERROR_EMULATION,
  KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
  KVM_NOTIFY_CONTEXT_INVALID,
  RUN,
} from '../../abi/index.ts';
import {
  KVM_EXIT_AP_RESET_HOLD,
  KVM_EXIT_DEBUG,
  KVM_EXIT_DIRTY_RING_FULL,
  KVM_EXIT_EXCEPTION,
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_HYPERV,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_INTR,
  KVM_EXIT_IOAPIC_EOI,
  KVM_EXIT_NOTIFY,
  KVM_EXIT_SET_TPR,
  KVM_EXIT_SNP_REQ_CERTS,
  KVM_EXIT_SYSTEM_EVENT,
  KVM_EXIT_TDX,
  KVM_EXIT_TPR_ACCESS,
  KVM_EXIT_UNKNOWN,
  KVM_EXIT_X86_BUS_LOCK,
  KVM_EXIT_XEN,
} from './reasons.ts';
import type {
  HypervEventName,
  HypervExit,
  InternalErrorExit,
  InternalErrorName,
  SnpReqCertsExit,
  SystemEventExit,
  SystemEventName,
  TdxExit,
  VcpuExit,
  XenExit,
} from './types.ts';

const INTERNAL_ERRORS: readonly (InternalErrorName | undefined)[] = [
  undefined,
  'emulation',
  'simultaneous-exception',
  'delivery-event',
  'unexpected-exit',
];
const SYSTEM_EVENTS: readonly (SystemEventName | undefined)[] = [
  undefined,
  'shutdown',
  'reset',
  'crash',
  'wakeup',
  'suspend',
  'sev-term',
  'tdx-fatal',
];
const HYPERV_EVENTS: readonly (HypervEventName | undefined)[] = [undefined, 'synic', 'hypercall', 'syndbg'];

// Answers that stand unless the program writes others, so that a guest never gets the bytes of an earlier exit.
const TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED = 0x8000_0000_0000_0003n;
const EIO = 5n;
const XEN_ENOSYS = -38n;
const HV_STATUS_INVALID_HYPERCALL_CODE = 2n;

export function decodeRareExit(code: number, run: ArrayBuffer, fields: DataView): VcpuExit {
  switch (code) {
    case KVM_EXIT_UNKNOWN:
      return { reason: 'unknown-exit', ...exitUnknown.decode(fields) };
    case KVM_EXIT_EXCEPTION:
      return { reason: 'exception', ...exitException.decode(fields) };
    case KVM_EXIT_DEBUG:
      return { reason: 'debug', ...exitDebug.decode(fields) };
    case KVM_EXIT_FAIL_ENTRY:
      return { reason: 'fail-entry', ...exitFailEntry.decode(fields) };
    case KVM_EXIT_INTR:
      return { reason: 'interrupted', cause: 'signal' };
    case KVM_EXIT_SET_TPR:
      return { reason: 'set-tpr', cr8: fields.getBigUint64(RUN.cr8, true) };
    case KVM_EXIT_TPR_ACCESS: {
      const { rip, isWrite } = exitTprAccess.decode(fields);
      return { reason: 'tpr-access', rip, write: isWrite !== 0 };
    }
    case KVM_EXIT_INTERNAL_ERROR:
      return internalError(fields);
    case KVM_EXIT_SYSTEM_EVENT:
      return systemEvent(fields);
    case KVM_EXIT_IOAPIC_EOI:
      return { reason: 'ioapic-eoi', ...exitIoapicEoi.decode(fields) };
    case KVM_EXIT_HYPERV:
      return hyperv(run, fields);
    case KVM_EXIT_DIRTY_RING_FULL:
      return { reason: 'dirty-ring-full' };
    case KVM_EXIT_AP_RESET_HOLD:
      return { reason: 'ap-reset-hold' };
    case KVM_EXIT_X86_BUS_LOCK:
      return { reason: 'bus-lock' };
    case KVM_EXIT_XEN:
      return xen(run, fields);
    case KVM_EXIT_NOTIFY: {
      const { flags } = exitNotify.decode(fields);
      return { reason: 'notify', flags, contextInvalid: (flags & KVM_NOTIFY_CONTEXT_INVALID) !== 0 };
    }
    case KVM_EXIT_TDX:
      return tdx(run, fields);
    case KVM_EXIT_SNP_REQ_CERTS:
      return snpReqCerts(run, fields);
    default:
      return { reason: 'unknown', code };
  }
}

function internalError(fields: DataView): InternalErrorExit {
  const { suberror: code, ndata, data: all } = exitInternalError.decode(fields);
  const data = all.slice(0, ndata);
  let instruction: Uint8Array | undefined;
  // The instruction is in the two words after the flags, and there only if ndata covers them.
  if (code === KVM_INTERNAL_ERROR_EMULATION && data.length >= 3) {
    const { flags, insnSize, insnBytes } = exitEmulationFailure.decode(fields);
    const given = (flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) !== 0n;
    if (given) instruction = insnBytes.slice(0, insnSize);
  }
  return { reason: 'internal-error', suberror: INTERNAL_ERRORS[code] ?? 'unknown', code, data, instruction };
}

function systemEvent(fields: DataView): SystemEventExit {
  const { type, ndata, data } = exitSystemEvent.decode(fields);
  return { reason: 'system-event', type, typeName: SYSTEM_EVENTS[type] ?? 'unknown', data: data.slice(0, ndata) };
}

function hyperv(run: ArrayBuffer, fields: DataView): HypervExit {
  const { type } = exitHyperv.decode(fields);
  const data = new BigUint64Array(run, exitHyperv.fields.u.offset, 6);
  const typeName = HYPERV_EVENTS[type] ?? 'unknown';
  if (typeName === 'hypercall') data[1] = HV_STATUS_INVALID_HYPERCALL_CODE;
  return { reason: 'hyperv', type, typeName, data };
}

function xen(run: ArrayBuffer, fields: DataView): XenExit {
  const { type, longmode, cpl, input, params } = exitXen.decode(fields);
  const ret = new BigInt64Array(run, exitXen.fields.result.offset, 1);
  ret[0] = XEN_ENOSYS;
  return { reason: 'xen', type, longMode: longmode !== 0, cpl, input, params, ret };
}

function tdx(run: ArrayBuffer, fields: DataView): TdxExit {
  const { flags, nr } = exitTdx.decode(fields);
  const ret = new BigUint64Array(run, exitTdx.fields.ret.offset, 1);
  ret[0] = TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED;
  return { reason: 'tdx', flags, nr: Number(nr), data: new BigUint64Array(run, exitTdx.fields.data.offset, 5), ret };
}

function snpReqCerts(run: ArrayBuffer, fields: DataView): SnpReqCertsExit {
  const { gpa } = exitSnpReqCerts.decode(fields);
  const ret = new BigUint64Array(run, exitSnpReqCerts.fields.ret.offset, 1);
  ret[0] = EIO;
  return {
    reason: 'snp-req-certs',
    gpa,
    npages: new BigUint64Array(run, exitSnpReqCerts.fields.npages.offset, 1),
    ret,
  };
}
