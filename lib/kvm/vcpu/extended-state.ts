/** Floating point and vector registers, XCRs, debug registers and guest debugging. */
import { boolean, bytes as checkBytes, options as checkOptions, rangeError, typeError, u64 } from '../../arguments.ts';
import {
  KVM_GET_DEBUGREGS,
  KVM_GET_FPU,
  KVM_GET_XCRS,
  KVM_GUESTDBG_BLOCKIRQ,
  KVM_GUESTDBG_ENABLE,
  KVM_GUESTDBG_INJECT_BP,
  KVM_GUESTDBG_INJECT_DB,
  KVM_GUESTDBG_SINGLESTEP,
  KVM_GUESTDBG_USE_HW_BP,
  KVM_GUESTDBG_USE_SW_BP,
  KVM_MAX_XCRS,
  KVM_SET_DEBUGREGS,
  KVM_SET_FPU,
  KVM_SET_GUEST_DEBUG,
  KVM_SET_XCRS,
  kvmDebugregs,
  kvmFpu,
  kvmGuestDebug,
  kvmXcrs,
} from '../../abi/index.ts';
import type { Debugregs, Fpu, Input, Xcr } from '../../abi/index.ts';
import { VcpuRegisters } from './registers.ts';
import type { StateOptions } from './state.ts';

/** What {@link VcpuExtendedState.setGuestDebug} takes. Everything is off by default. */
export interface GuestDebugOptions {
  /** The switch for all of it. Default: true when anything else is asked for. */
  readonly enable?: boolean;
  /** A `'debug'` exit (exception 1) after each instruction. */
  readonly singlestep?: boolean;
  /** INT3 in the guest exits (`'debug'`, exception 3) instead of raising #BP. You patch the instruction yourself. */
  readonly useSwBp?: boolean;
  /** The `addresses` are hardware breakpoints, instead of what the guest has in its debug registers. */
  readonly useHwBp?: boolean;
  /** Up to four linear addresses for DR0 to DR3. */
  readonly addresses?: readonly bigint[];
  /** Which of them are on, and how. Default: each address given breaks on execution (bit 2n + 1, and bit 10). */
  readonly dr7?: bigint;
  /** Raises #DB in the guest at the next run. */
  readonly injectDb?: boolean;
  /** Raises #BP in the guest at the next run. */
  readonly injectBp?: boolean;
  /** Holds back interrupts and NMIs while stepping. */
  readonly blockIrq?: boolean;
}

const DEBUG_BITS = {
  enable: KVM_GUESTDBG_ENABLE,
  singlestep: KVM_GUESTDBG_SINGLESTEP,
  useSwBp: KVM_GUESTDBG_USE_SW_BP,
  useHwBp: KVM_GUESTDBG_USE_HW_BP,
  injectDb: KVM_GUESTDBG_INJECT_DB,
  injectBp: KVM_GUESTDBG_INJECT_BP,
  blockIrq: KVM_GUESTDBG_BLOCKIRQ,
} as const;
const DEBUG_FLAGS = Object.keys(DEBUG_BITS) as (keyof typeof DEBUG_BITS)[];
/** DR7.GE is ignored by processors, but bit 10 must be set. */
const DR7_FIXED = 1n << 10n;

export abstract class VcpuExtendedState extends VcpuRegisters {
  /** x87 and SSE registers. *KVM_GET_FPU* */
  getFpu(options?: StateOptions): Fpu {
    this.beforeRead(options);
    const bytes = new Uint8Array(kvmFpu.size);
    this.ioctl(KVM_GET_FPU, bytes);
    return kvmFpu.decode(bytes);
  }

  /** *KVM_SET_FPU* */
  setFpu(fpu: Input<typeof kvmFpu>): void {
    const bytes = kvmFpu.encode(fpu);
    this.beforeWrite();
    this.ioctl(KVM_SET_FPU, bytes);
  }

  /**
   * The whole extended state in the layout of XSAVE: a new array of as many bytes as KVM_CAP_XSAVE2 of the VM says
   * (4096 without it). *KVM_GET_XSAVE2*, *KVM_GET_XSAVE*
   */
  getXsave(options?: StateOptions): Uint8Array {
    this.beforeRead(options);
    return this.check(() => this.native.getXsave());
  }

  /** Sets it from bytes as {@link getXsave} gives them, of the same length. *KVM_SET_XSAVE* */
  setXsave(state: Uint8Array): void {
    checkBytes('state', state);
    this.beforeWrite();
    this.check(() => this.native.setXsave(state), {
      hint: 'XSTATE_BV or MXCSR has bits that the CPUID of this vCPU does not have',
    });
  }

  /** The extended control registers: XCR0 on every processor so far. Needs KVM_CAP_XCRS. *KVM_GET_XCRS* */
  getXcrs(options?: StateOptions): Xcr[] {
    this.beforeRead(options);
    const bytes = new Uint8Array(kvmXcrs.size);
    this.ioctl(KVM_GET_XCRS, bytes);
    const { nrXcrs, xcrs } = kvmXcrs.decode(bytes);
    return xcrs.slice(0, nrXcrs);
  }

  /** *KVM_SET_XCRS* */
  setXcrs(xcrs: readonly Xcr[]): void {
    if (!Array.isArray(xcrs)) throw typeError('an array', 'xcrs', xcrs);
    if (xcrs.length > KVM_MAX_XCRS) throw rangeError(`at most ${KVM_MAX_XCRS} entries`, 'xcrs', xcrs.length);
    const all: Xcr[] = [...(xcrs as readonly Xcr[])];
    while (all.length < KVM_MAX_XCRS) all.push({ xcr: 0, value: 0n });
    const bytes = kvmXcrs.encode({ nrXcrs: xcrs.length, flags: 0, xcrs: all });
    this.beforeWrite();
    this.ioctl(KVM_SET_XCRS, bytes, 'XCR0 needs bit 0, and may have only the bits of CPUID leaf 0xd: set CPUID first');
  }

  /** DR0 to DR3, DR6 and DR7 of the guest. *KVM_GET_DEBUGREGS* */
  getDebugregs(options?: StateOptions): Debugregs {
    this.beforeRead(options);
    const bytes = new Uint8Array(kvmDebugregs.size);
    this.ioctl(KVM_GET_DEBUGREGS, bytes);
    return kvmDebugregs.decode(bytes);
  }

  /** `flags` must be 0n. *KVM_SET_DEBUGREGS* */
  setDebugregs(debugregs: Input<typeof kvmDebugregs>): void {
    const bytes = kvmDebugregs.encode(debugregs);
    this.beforeWrite();
    this.ioctl(KVM_SET_DEBUGREGS, bytes, 'flags must be 0n, and DR6 and DR7 fit in 32 bits');
  }

  /**
   * Debugs the guest from outside, from the next run on. Every call replaces what was set before; `{}` turns it off.
   * Needs KVM_CAP_SET_GUEST_DEBUG. *KVM_SET_GUEST_DEBUG*
   *
   * @throws KvmSystemError EBUSY for an injection while an exception is pending, EINVAL for an encrypted guest.
   */
  setGuestDebug(options: GuestDebugOptions): void {
    if (options === undefined) throw typeError('a plain object', 'options', options);
    checkOptions('options', options, [...DEBUG_FLAGS, 'addresses', 'dr7']);
    const { addresses = [] } = options;
    if (!Array.isArray(addresses)) throw typeError('an array of bigints', 'addresses', addresses);
    if (addresses.length > 4) throw rangeError('at most 4 addresses', 'addresses', addresses.length);
    let control = 0;
    for (const name of DEBUG_FLAGS) {
      if (options[name] !== undefined && boolean(name, options[name])) control |= DEBUG_BITS[name];
    }
    if (control !== 0 && options.enable === undefined) control |= KVM_GUESTDBG_ENABLE;
    const debugreg = new Array<bigint>(8).fill(0n);
    let dr7 = (addresses as readonly bigint[]).length === 0 ? 0n : DR7_FIXED;
    for (const [index, address] of (addresses as readonly bigint[]).entries()) {
      debugreg[index] = u64(`addresses[${index}]`, address);
      dr7 |= 2n << BigInt(2 * index);
    }
    debugreg[7] = options.dr7 === undefined ? dr7 : u64('dr7', options.dr7);
    const bytes = kvmGuestDebug.encode({ control, debugreg });
    this.beforeWrite();
    this.ioctl(
      KVM_SET_GUEST_DEBUG,
      bytes,
      'EBUSY says that an exception is pending already; EINVAL that the guest is encrypted, or that this kernel ' +
        'lacks one of the options',
    );
    this.syncRegs.invalidate();
  }
}
