/** The system handle: what this host's KVM can do, and where VMs come from. */
import { readlinkSync } from 'node:fs';
import {
  KVM_API_VERSION,
  KVM_CHECK_EXTENSION,
  KVM_GET_API_VERSION,
  KVM_GET_EMULATED_CPUID,
  KVM_GET_MSR_FEATURE_INDEX_LIST,
  KVM_GET_MSR_INDEX_LIST,
  KVM_GET_MSRS,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_X86_GET_MCE_CAP_SUPPORTED,
  kvmCpuid2,
  kvmMsrs,
} from '../abi/index.ts';
import type { CapName, CpuidEntry } from '../abi/index.ts';
import { bytes as checkBytes, typeError, u32, u64, uint } from '../arguments.ts';
import { KvmSystemError, KvmUnsupportedError, wrapSystemError } from '../errors.ts';
import { native as addon } from '../native.ts';
import type { NativeSystem } from '../native.ts';
import { capNumber } from './caps.ts';
import { Handle } from './handle.ts';
import { Vm } from './vm/vm.ts';
import { VM_TYPE_NAMES, vmTypeName, vmTypeNumber } from './vm-types.ts';
import type { VmTypeName } from './vm-types.ts';

/** One MSR and its value. */
export interface MsrValue {
  readonly index: number;
  readonly data: bigint;
}

const OPEN_HINTS: Readonly<Record<string, string>> = {
  ENOENT:
    'there is no such device: the kvm module is not loaded (modprobe kvm_intel or kvm_amd), virtualization is ' +
    'off in the BIOS, this machine is itself a VM without nested virtualization, or the container was not given it',
  EACCES: 'this user may not open it: add the user to the group that owns it (usually kvm) and log in again',
  EPERM: 'a device policy (a cgroup, a container or a sandbox) forbids it',
  ENODEV: 'the device node is there and no driver behind it: load the kvm module',
  ENXIO: 'the device node is there and no driver behind it: load the kvm module',
  ENOTTY: 'this is not /dev/kvm',
};

const CPUID_ENTRIES = 256;
const MSR_LIST_ENTRIES = 1024;
const MSRS_PER_CALL = 255;

/**
 * An open /dev/kvm. Closing it closes the VMs made from it.
 *
 * *The KVM API documentation, section System ioctls*
 */
export class Kvm extends Handle<NativeSystem> {
  private constructor(native: NativeSystem) {
    super('KVM system handle', native);
  }

  /**
   * Opens KVM, and checks that it speaks the one API version there is (12).
   *
   * @param pathOrFd - the device's path (default `/dev/kvm`), or a file descriptor of it, which is duplicated: the
   * original stays the caller's.
   * @throws KvmSystemError ENOENT, EACCES, EPERM, ... with what to do about it.
   * @throws KvmUnsupportedError on another platform, or another API version.
   */
  static open(pathOrFd: string | number = '/dev/kvm'): Kvm {
    if (typeof pathOrFd !== 'string' && typeof pathOrFd !== 'number') {
      throw typeError('a path or a file descriptor', 'pathOrFd', pathOrFd);
    }
    const kvm = new Kvm(typeof pathOrFd === 'number' ? fromFd(pathOrFd) : fromPath(pathOrFd));
    try {
      const version = kvm.getApiVersion();
      if (version !== KVM_API_VERSION) {
        throw new KvmUnsupportedError(
          `This KVM speaks API version ${version}, and node-kvm only ${KVM_API_VERSION}`,
          'KVM_API_VERSION',
        );
      }
      return kvm;
    } catch (error) {
      kvm.close();
      throw notKvm(error, pathOrFd);
    }
  }

  /** 12 on every kernel since 2.6.22. *KVM_GET_API_VERSION* */
  getApiVersion(): number {
    return this.#ioctl(KVM_GET_API_VERSION);
  }

  /**
   * What this KVM can do: 0 for "not at all", otherwise 1 or a number whose meaning the capability's documentation
   * gives. Ask the VM once there is one ({@link Vm.checkExtension}): its type changes some answers.
   * *KVM_CHECK_EXTENSION*
   */
  checkExtension(capability: number | CapName): number {
    return this.#ioctl(KVM_CHECK_EXTENSION, capNumber(capability));
  }

  /** The VM types that KVM_CAP_VM_TYPES names; `['default']` on kernels without it. */
  vmTypes(): VmTypeName[] {
    const mask = this.checkExtension('KVM_CAP_VM_TYPES');
    return mask === 0 ? ['default'] : VM_TYPE_NAMES.filter((_name, type) => (mask & (1 << type)) !== 0);
  }

  /**
   * Makes a VM of one type, and of no other: see `createVm()` for a choice by what the host can do.
   *
   * @param type - default `'default'`.
   * @throws KvmUnsupportedError where this KVM has no such type (KVM_CAP_VM_TYPES).
   * @throws KvmSystemError EMFILE, ENOMEM, ... *KVM_CREATE_VM*
   */
  createVm(type: VmTypeName | number = 'default'): Vm {
    const number = vmTypeNumber(type);
    try {
      return new Vm(
        this.check(() => this.native.createVm(BigInt(number))),
        number,
        this,
      );
    } catch (error) {
      if (!(error instanceof KvmSystemError) || error.code !== 'EINVAL') throw error;
      throw new KvmUnsupportedError(
        `This KVM cannot make a VM of type ${vmTypeName(number)} (${number}), only: ${this.vmTypes().join(', ')}`,
        'KVM_CAP_VM_TYPES',
        { cause: error },
      );
    }
  }

  /** Bytes of a vCPU's kvm_run mapping. *KVM_GET_VCPU_MMAP_SIZE* */
  getVcpuMmapSize(): number {
    return this.#ioctl(KVM_GET_VCPU_MMAP_SIZE);
  }

  /** The CPUID leaves that this host and KVM can give to a guest. *KVM_GET_SUPPORTED_CPUID* */
  getSupportedCpuid(): CpuidEntry[] {
    return this.#cpuid(KVM_GET_SUPPORTED_CPUID);
  }

  /** The CPUID features that KVM emulates in software, slowly. *KVM_GET_EMULATED_CPUID* */
  getEmulatedCpuid(): CpuidEntry[] {
    return this.#cpuid(KVM_GET_EMULATED_CPUID);
  }

  /** The MSRs that a vCPU has and that are worth saving. *KVM_GET_MSR_INDEX_LIST* */
  getMsrIndexList(): number[] {
    return this.#msrList(KVM_GET_MSR_INDEX_LIST);
  }

  /** The MSRs that describe features of the host, for {@link getMsrs}. *KVM_GET_MSR_FEATURE_INDEX_LIST* */
  getMsrFeatureIndexList(): number[] {
    return this.#msrList(KVM_GET_MSR_FEATURE_INDEX_LIST);
  }

  /**
   * Feature MSRs of the host. Needs KVM_CAP_GET_MSR_FEATURES.
   *
   * @throws KvmSystemError EINVAL naming the first index that cannot be read. *KVM_GET_MSRS*
   */
  getMsrs(indices: readonly number[]): MsrValue[] {
    if (!Array.isArray(indices)) throw typeError('an array of MSR indices', 'indices', indices);
    indices.forEach((index, at) => u32(`indices[${at}]`, index));
    const values: MsrValue[] = [];
    for (let start = 0; start < indices.length; start += MSRS_PER_CALL) {
      const part = indices.slice(start, start + MSRS_PER_CALL);
      const buffer = kvmMsrs.encode(part.map((index) => ({ index, data: 0n })));
      const done = this.#ioctl(KVM_GET_MSRS, buffer);
      if (done < part.length) throw unreadable(part[done]);
      values.push(...kvmMsrs.decode(buffer, done).map(({ index, data }) => ({ index, data })));
    }
    return values;
  }

  /** Bits of IA32_MCG_CAP that a vCPU can have. Needs KVM_CAP_MCE. *KVM_X86_GET_MCE_CAP_SUPPORTED* */
  getMceCapSupported(): bigint {
    const buffer = new Uint8Array(8);
    this.#ioctl(KVM_X86_GET_MCE_CAP_SUPPORTED, buffer);
    return new DataView(buffer.buffer).getBigUint64(0, true);
  }

  /** Reads a system attribute into `data` (at most 64 KiB). Needs KVM_CAP_SYS_ATTRIBUTES. *KVM_GET_DEVICE_ATTR* */
  getDeviceAttr(group: number, attr: bigint, data: Uint8Array): void {
    u32('group', group);
    u64('attr', attr);
    checkBytes('data', data);
    this.check(() => this.native.getDeviceAttr(group, attr, data), {
      state: `group ${group}, attribute ${attr}`,
      hint: 'this kernel has no such attribute',
    });
  }

  /** Whether the system has an attribute. Needs KVM_CAP_SYS_ATTRIBUTES. *KVM_HAS_DEVICE_ATTR* */
  hasDeviceAttr(group: number, attr: bigint): boolean {
    return this.check(() => this.native.hasDeviceAttr(u32('group', group), u64('attr', attr)));
  }

  #ioctl(request: number, argument?: number | Uint8Array): number {
    return this.check(() => this.native.ioctl(request, argument));
  }

  /** E2BIG does not say how many entries there are: ask with more. */
  #cpuid(request: number): CpuidEntry[] {
    for (let count = CPUID_ENTRIES; ; count *= 2) {
      const buffer = kvmCpuid2.allocate(count);
      try {
        this.#ioctl(request, buffer);
        return kvmCpuid2.decode(buffer);
      } catch (error) {
        if (!(error instanceof KvmSystemError) || error.code !== 'E2BIG' || count > 4096) throw error;
      }
    }
  }

  /** E2BIG writes how many there are. */
  #msrList(request: number): number[] {
    for (let count = MSR_LIST_ENTRIES; ;) {
      const list = new Uint32Array(1 + count);
      list[0] = count;
      try {
        this.#ioctl(request, new Uint8Array(list.buffer));
        return [...list.subarray(1, 1 + list[0])];
      } catch (error) {
        if (!(error instanceof KvmSystemError) || error.code !== 'E2BIG' || list[0] <= count) throw error;
        count = list[0];
      }
    }
  }
}

function fromPath(path: string): NativeSystem {
  try {
    return addon().openSystem(path);
  } catch (error) {
    const hint = OPEN_HINTS[(error as { code?: string }).code ?? ''];
    throw wrapSystemError(error, { message: `Opening ${path}`, hint });
  }
}

function fromFd(fd: number): NativeSystem {
  uint('fd', fd, { max: 0x7fffffff });
  try {
    return addon().systemFromFd(fd);
  } catch (error) {
    const hint = (error as { code?: string }).code === 'EBADF' ? 'it is not open' : 'this is not /dev/kvm';
    throw wrapSystemError(error, { state: `file descriptor ${fd}`, hint });
  }
}

/** A file that is not KVM answers the first ioctl with ENOTTY or EINVAL. */
function notKvm(error: unknown, pathOrFd: string | number): unknown {
  if (!(error instanceof KvmSystemError) || error.syscall !== 'KVM_GET_API_VERSION') return error;
  const what = typeof pathOrFd === 'string' ? pathOrFd : `file descriptor ${pathOrFd}${target(pathOrFd)}`;
  return wrapSystemError(error.cause, { state: what, hint: 'this is not /dev/kvm' });
}

function target(fd: number): string {
  try {
    return ` (${readlinkSync(`/proc/self/fd/${fd}`)})`;
  } catch {
    return '';
  }
}

function unreadable(index: number): KvmSystemError {
  return new KvmSystemError(`KVM_GET_MSRS failed: MSR 0x${index.toString(16)} is not a feature MSR of this host`, {
    code: 'EINVAL',
    errno: -22,
    syscall: 'KVM_GET_MSRS',
    hint: 'take the indices from getMsrFeatureIndexList()',
  });
}
