/** State of a guest that is a hypervisor itself, and registers by identifier. */
import { bytes as checkBytes, rangeError, typeError, u64 } from '../../arguments.ts';
import {
  KVM_GET_NESTED_STATE,
  KVM_GET_REG_LIST,
  KVM_REG_SIZE_MASK,
  KVM_REG_SIZE_SHIFT,
  KVM_SET_NESTED_STATE,
  kvmNestedState,
} from '../../abi/index.ts';
import { KvmSystemError, KvmUnsupportedError } from '../../errors.ts';
import { VcpuInterrupts } from './interrupts.ts';
import type { StateOptions } from './state.ts';

/** Header and both pages of VMX; SVM needs one page less. E2BIG says the size where this is not enough. */
const USUAL_NESTED_SIZE = 128 + 2 * 4096;
const NESTED_SIZE_AT = 4;
const NO_NESTED =
  'this kernel has no nested virtualisation (module parameter nested=1 of kvm_amd or kvm_intel), or the state is ' +
  'not one that the EFER, CR4 and CPUID of this vCPU allow';

export abstract class VcpuNested extends VcpuInterrupts {
  /**
   * The state of nested virtualisation: 128 bytes of header (`kvmNestedState` decodes it), then 0, 4096 (SVM) or 8192
   * (VMX) bytes of data. Needs KVM_CAP_NESTED_STATE. *KVM_GET_NESTED_STATE*
   */
  getNestedState(options?: StateOptions): Uint8Array {
    this.beforeRead(options);
    let bytes = sized(USUAL_NESTED_SIZE);
    for (;;) {
      try {
        this.ioctl(KVM_GET_NESTED_STATE, bytes, NO_NESTED);
        return bytes.slice(0, sizeIn(bytes));
      } catch (error) {
        const needed = sizeIn(bytes);
        if (!(error instanceof KvmSystemError) || error.code !== 'E2BIG' || needed <= bytes.length) throw error;
        bytes = sized(needed);
      }
    }
  }

  /** Sets it from bytes as {@link getNestedState} gives them, after sregs and EFER. *KVM_SET_NESTED_STATE* */
  setNestedState(state: Uint8Array): void {
    checkBytes('state', state, { min: kvmNestedState.size });
    const copy = state.slice();
    const size = sizeIn(copy);
    if (size < kvmNestedState.size || size > copy.length) {
      throw rangeError(`a size field from ${kvmNestedState.size} to ${copy.length}`, 'state', size);
    }
    this.beforeWrite();
    this.ioctl(KVM_SET_NESTED_STATE, copy, NO_NESTED);
    this.syncRegs.invalidate();
  }

  /**
   * One register by its identifier, as a little-endian number of the size that the identifier says. On x86 since Linux
   * 6.18: MSRs are `0x2030000200000000n | index`. *KVM_GET_ONE_REG*
   *
   * @throws KvmUnsupportedError where the kernel has no such call. KvmSystemError ENOENT for a register it lacks.
   */
  getOneReg(id: bigint, options?: StateOptions): bigint {
    const bytes = new Uint8Array(registerSize(id));
    this.beforeRead(options);
    this.#oneReg('KVM_GET_ONE_REG', () => this.native.getOneReg(id, bytes));
    let value = 0n;
    for (let index = bytes.length - 1; index >= 0; index--) value = (value << 8n) | BigInt(bytes[index]!);
    return value;
  }

  /** *KVM_SET_ONE_REG*. Throws as {@link getOneReg} does. */
  setOneReg(id: bigint, value: bigint): void {
    const bytes = new Uint8Array(registerSize(id));
    if (typeof value !== 'bigint') throw typeError('a bigint', 'value', value);
    if (BigInt.asUintN(bytes.length * 8, value) !== value) {
      throw rangeError(`an unsigned integer of ${bytes.length} bytes`, 'value', value);
    }
    for (let index = 0; index < bytes.length; index++) bytes[index] = Number((value >> BigInt(8 * index)) & 0xffn);
    this.beforeWrite();
    this.#oneReg('KVM_SET_ONE_REG', () => this.native.setOneReg(id, bytes));
    this.syncRegs.invalidate();
  }

  /** The identifiers that {@link getOneReg} takes. On x86 since Linux 6.18. *KVM_GET_REG_LIST* */
  getRegList(): bigint[] {
    this.beforeRead();
    let list = new BigUint64Array(1);
    for (;;) {
      try {
        this.#oneReg('KVM_GET_REG_LIST', () => void this.native.ioctl(KVM_GET_REG_LIST, new Uint8Array(list.buffer)));
        return [...list.subarray(1, 1 + Number(list[0]))];
      } catch (error) {
        // E2BIG writes the number that is needed.
        const needed = Number(list[0]);
        if (!(error instanceof KvmSystemError) || error.code !== 'E2BIG' || needed < list.length) throw error;
        list = new BigUint64Array(1 + needed);
        list[0] = BigInt(needed);
      }
    }
  }

  #oneReg(syscall: string, call: () => void): void {
    try {
      this.check(call);
    } catch (error) {
      // A vCPU answers EINVAL to an ioctl that its kernel does not have. Where it has them, the capability says so.
      const unknown = error instanceof KvmSystemError && error.code === 'EINVAL';
      if (!unknown || this.vm.checkExtension('KVM_CAP_ONE_REG') > 0) throw error;
      throw new KvmUnsupportedError(
        `${syscall} is not offered by this kernel: on x86 it came with Linux 6.18`,
        'KVM_CAP_ONE_REG',
        { cause: error },
      );
    }
  }
}

/** The size in the identifier is a power of two: 3 is 8 bytes. */
function registerSize(id: bigint): number {
  return 2 ** Number((u64('id', id) & KVM_REG_SIZE_MASK) >> BigInt(KVM_REG_SIZE_SHIFT));
}

function sized(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  new DataView(bytes.buffer).setUint32(NESTED_SIZE_AT, size, true);
  return bytes;
}

function sizeIn(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(NESTED_SIZE_AT, true);
}
