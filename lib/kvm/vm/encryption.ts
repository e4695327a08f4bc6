/** The commands of SEV and TDX, raw, and the memory that an encrypted guest does DMA to. */
import {
  bytes as checkBytes,
  options as checkOptions,
  pageAlignedOffset,
  pageAlignedSize,
  rangeError,
  typeError,
  uint,
} from '../../arguments.ts';
import type { NativePointer } from '../../native.ts';
import { expectHandle, nativeOf } from '../handle.ts';
import { HostMapping } from '../host-mapping.ts';
import { VmMisc } from './misc.ts';

/** A command of the vendor's encryption, raw. */
export interface VmMemoryEncryptOp {
  /** The command struct (kvm_sev_cmd, kvm_tdx_cmd), written back in place. Default: none, which asks for support. */
  readonly command?: Uint8Array;
  /** Where in `command` the address of `data` goes. Default: 8, right for SEV and TDX. */
  readonly dataAt?: number;
  /** The parameter struct, written back in place. Default: none. */
  readonly data?: Uint8Array;
  /** Pointer fields of `data`, each filled with the address of a buffer that is written back too. */
  readonly pointers?: readonly NativePointer[];
}

/** Host memory, as a part of a mapping. */
export interface EncryptedRegion {
  readonly mapping: HostMapping;
  /** In bytes, from the start of the mapping; a multiple of 4096. Default: 0. */
  readonly offset?: number;
  /** In bytes, a multiple of 4096. Default: what is left of the mapping. */
  readonly size?: number;
}

const UNSUPPORTED =
  'the type of this VM has no memory encryption, or the host has it turned off (kvm_amd.sev, ' + 'kvm_intel.tdx)';

export abstract class VmEncryption extends VmMisc {
  /**
   * One command of SEV or TDX. The kernel reads and writes copies of the buffers; their results are in place when this
   * returns, and when the command failed: the firmware's status is in the command struct then.
   *
   * @throws KvmSystemError ENOTTY or EINVAL (no such technology here), EIO (the firmware refused: see its status),
   * EFAULT (a buffer is shorter than the command asks for), and what the command adds. *KVM_MEMORY_ENCRYPT_OP*
   */
  memoryEncryptOp(op: VmMemoryEncryptOp): void {
    const {
      command,
      dataAt = 8,
      data,
      pointers = [],
    } = checkOptions('op', op, ['command', 'dataAt', 'data', 'pointers']);
    if (command !== undefined) checkBytes('command', command);
    if (data !== undefined) checkBytes('data', data);
    uint('dataAt', dataAt);
    if (!Array.isArray(pointers)) throw typeError('an array of pointers', 'pointers', pointers);
    this.check(() => this.native.memoryEncryptOp(command ?? null, dataAt, data ?? null, pointers), {
      hint:
        `${UNSUPPORTED}; or, where it has, the command is out of order or the firmware refused it (its status is ` +
        'in the command struct)',
    });
  }

  /**
   * Pins host memory that a SEV guest has encrypted, so that its pages are not moved: their contents are bound to their
   * host addresses. Not for SNP guests on guest_memfd. The mapping stays alive until it is unregistered.
   *
   * @throws KvmSystemError ENOTTY (no SEV guest), ENOMEM (RLIMIT_MEMLOCK), EINVAL. *KVM_MEMORY_ENCRYPT_REG_REGION*
   */
  memoryEncryptRegRegion(region: EncryptedRegion): void {
    this.#encryptedRegion(true, region, `${UNSUPPORTED}. ENOMEM: the limit of RLIMIT_MEMLOCK is reached`);
  }

  /**
   * Ends that. Give the same mapping, offset and size.
   *
   * @throws KvmSystemError EINVAL (not registered so), ENOTTY. *KVM_MEMORY_ENCRYPT_UNREG_REGION*
   */
  memoryEncryptUnregRegion(region: EncryptedRegion): void {
    this.#encryptedRegion(false, region, `no region of this mapping, offset and size is registered; or ${UNSUPPORTED}`);
  }

  #encryptedRegion(register: boolean, region: EncryptedRegion, hint: string): void {
    const given = checkOptions('region', region, ['mapping', 'offset', 'size']);
    const mapping = nativeOf(expectHandle(HostMapping, 'a HostMapping', 'mapping', given.mapping));
    const offset = BigInt(pageAlignedOffset('offset', given.offset ?? 0));
    const rest = mapping.length - offset;
    const size = given.size === undefined ? rest : BigInt(pageAlignedSize('size', given.size));
    if (rest <= 0n) throw rangeError(`an offset inside the mapping of ${mapping.length} bytes`, 'offset', given.offset);
    if (size > rest) throw rangeError(`at most the ${rest} bytes that are left of the mapping`, 'size', given.size);
    this.check(() => this.native.memoryEncryptRegion(register, mapping, offset, size), {
      state: `offset ${offset}, size ${size}`,
      hint,
    });
  }
}
