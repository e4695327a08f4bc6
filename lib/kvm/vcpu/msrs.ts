/** Model-specific registers and CPUID. */
import { typeError, u32 } from '../../arguments.ts';
import {
  KVM_GET_CPUID2,
  KVM_GET_MSRS,
  KVM_GET_SUPPORTED_HV_CPUID,
  KVM_SET_CPUID2,
  KVM_SET_MSRS,
  kvmCpuid2,
  kvmMsrs,
} from '../../abi/index.ts';
import type { CpuidEntry, Input, MsrEntry } from '../../abi/index.ts';
import { KvmSystemError } from '../../errors.ts';
import { VcpuExtendedState } from './extended-state.ts';
import type { StateOptions } from './state.ts';

/** The kernel refuses 256 and more in one call with E2BIG. */
const MAX_MSRS = 255;
const MAX_CPUID_ENTRIES = 256;
const EINVAL = -22;

export abstract class VcpuMsrs extends VcpuExtendedState {
  /**
   * Reads MSRs, in the order asked for. {@link Kvm.getMsrIndexList} says which ones there are. Any number: more than
   * 255 are read in several calls. *KVM_GET_MSRS*
   *
   * @throws KvmSystemError EINVAL naming the first MSR that could not be read.
   */
  getMsrs(indices: readonly number[], options?: StateOptions): MsrEntry[] {
    if (!Array.isArray(indices)) throw typeError('an array of MSR indices', 'indices', indices);
    const wanted = (indices as readonly number[]).map((index, at) => ({
      index: u32(`indices[${at}]`, index),
      data: 0n,
    }));
    this.beforeRead(options);
    const found: MsrEntry[] = [];
    for (let from = 0; from < wanted.length; from += MAX_MSRS) {
      const part = wanted.slice(from, from + MAX_MSRS);
      const bytes = kvmMsrs.encode(part);
      const done = this.ioctl(KVM_GET_MSRS, bytes);
      if (done < part.length) throw refusedMsr('KVM_GET_MSRS', 'read', part[done]!.index, from + done);
      found.push(...kvmMsrs.decode(bytes, done));
    }
    return found;
  }

  /** One MSR. */
  getMsr(index: number, options?: StateOptions): bigint {
    return this.getMsrs([index], options)[0]!.data;
  }

  /**
   * Writes MSRs, in this order. Any number: more than 255 are written in several calls. *KVM_SET_MSRS*
   *
   * @throws KvmSystemError EINVAL naming the first MSR that was refused; those before it are set.
   */
  setMsrs(entries: readonly Input<typeof kvmMsrs.entry>[]): void {
    if (!Array.isArray(entries)) throw typeError('an array of { index, data }', 'entries', entries);
    const all = entries as readonly Input<typeof kvmMsrs.entry>[];
    const parts: Uint8Array[] = [];
    for (let from = 0; from < all.length; from += MAX_MSRS) {
      parts.push(kvmMsrs.encode(all.slice(from, from + MAX_MSRS)));
    }
    this.beforeWrite();
    this.syncRegs.invalidate();
    for (const [part, bytes] of parts.entries()) {
      const from = part * MAX_MSRS;
      const count = Math.min(MAX_MSRS, all.length - from);
      const done = this.ioctl(KVM_SET_MSRS, bytes);
      if (done < count) throw refusedMsr('KVM_SET_MSRS', 'written', all[from + done]!.index, from + done);
    }
  }

  /** The CPUID table of this vCPU. *KVM_GET_CPUID2* */
  getCpuid2(): CpuidEntry[] {
    this.expectIdle();
    return this.#cpuid(KVM_GET_CPUID2);
  }

  /**
   * What CPUID tells the guest; {@link Kvm.getSupportedCpuid} is the usual start. Set it before sregs, MSRs and XSAVE,
   * which are checked against it, and before the first run: afterwards KVM takes only an identical table. At most 256
   * entries. *KVM_SET_CPUID2*
   */
  setCpuid2(entries: readonly Input<typeof kvmCpuid2.entry>[]): void {
    const bytes = kvmCpuid2.encode(entries);
    this.beforeWrite();
    this.ioctl(
      KVM_SET_CPUID2,
      bytes,
      'E2BIG says more than 256 entries; EINVAL that the vCPU has run already and this table is another one',
    );
  }

  /** The Hyper-V leaves that KVM could offer to this vCPU. Needs KVM_CAP_HYPERV_CPUID. *KVM_GET_SUPPORTED_HV_CPUID* */
  getSupportedHvCpuid(): CpuidEntry[] {
    this.expectIdle();
    return this.#cpuid(KVM_GET_SUPPORTED_HV_CPUID);
  }

  /** Grows the table until it fits: E2BIG does not say how many entries there are. */
  #cpuid(request: number): CpuidEntry[] {
    for (let room = 64; ; room = Math.min(room * 2, MAX_CPUID_ENTRIES)) {
      const bytes = kvmCpuid2.allocate(room);
      try {
        this.ioctl(request, bytes);
        return kvmCpuid2.decode(bytes);
      } catch (error) {
        const tooSmall = error instanceof KvmSystemError && error.code === 'E2BIG';
        if (!tooSmall || room === MAX_CPUID_ENTRIES) throw error;
      }
    }
  }
}

function refusedMsr(syscall: string, done: string, index: number, position: number): KvmSystemError {
  return new KvmSystemError(
    `${syscall} failed: MSR 0x${index.toString(16)} (position ${position}) could not be ${done}. ` +
      'Likely cause: KVM does not know it, its value has reserved bits, or the CPUID of this vCPU lacks its feature',
    { code: 'EINVAL', errno: EINVAL, syscall },
  );
}
