/** Mapping guest memory before the guest touches it. *KVM_PRE_FAULT_MEMORY* */
import { options as checkOptions, pageAlignedGpaRange } from '../../arguments.ts';
import { kvmPreFaultMemory } from '../../abi/index.ts';
import { wrapSystemError } from '../../errors.ts';
import { errnoName } from './run-errors.ts';
import { VcpuRun } from './run.ts';

/** A range of guest physical memory. */
export interface PreFaultRange {
  /** A multiple of 4096. */
  readonly gpa: bigint;
  /** In bytes, a multiple of 4096. */
  readonly size: number | bigint;
}

/** How far one KVM_PRE_FAULT_MEMORY came. */
export interface PreFaultProgress {
  /** Bytes mapped by this call: at least a page. */
  readonly done: bigint;
  /** Where the rest begins. */
  readonly gpa: bigint;
  /** What is left, in bytes: 0n when all of it is mapped. */
  readonly size: bigint;
}

const HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'the range begins where no memslot is',
  EFAULT: 'the range is private and its memslot has no guest_memfd, or what is behind it cannot be mapped',
  EOPNOTSUPP:
    'this VM cannot map memory ahead: it has no two-dimensional paging (KVM_CAP_PRE_FAULT_MEMORY is 0), a ' +
    'nested guest is running, or the launch of the encrypted guest is not finished',
  ENOTTY: 'this kernel is older than 6.11, which brought KVM_PRE_FAULT_MEMORY',
  EINVAL: 'this kernel is older than 6.11 or has no two-dimensional paging (KVM_CAP_PRE_FAULT_MEMORY is 0)',
  EAGAIN: 'the memslot was just being changed: call it again',
  EINTR: 'a signal arrived before the first page: call it again',
  EHWPOISON: 'the page is poisoned by a hardware memory error',
};

export abstract class VcpuPreFault extends VcpuRun {
  /**
   * Maps guest memory as a read by the guest would, once: it may stop early, so go on with what is left until `size` is
   * 0n. Touches private memory where the range is private. Completes the last exit first, whose place in the mapping
   * the kernel may overwrite. Needs KVM_CAP_PRE_FAULT_MEMORY. *KVM_PRE_FAULT_MEMORY*
   *
   * On Linux 6.12 it may not end where a memslot was deleted since this vCPU last ran: run the vCPU once before.
   *
   * @throws KvmSystemError where not even the first page could be mapped: ENOENT (no memslot), EFAULT (private memory
   * without guest_memfd), EOPNOTSUPP (not on this VM, or not yet), EAGAIN and EINTR (call it again).
   */
  preFaultMemory(range: PreFaultRange): PreFaultProgress {
    const bytes = encodeRange(range);
    this.beforeWrite();
    try {
      this.native.preFault(bytes);
    } catch (error) {
      throw explained(error, range);
    }
    return progress(bytes, range);
  }

  /** The same on the vCPU's own thread, with the event loop free. The vCPU cannot run meanwhile. */
  async preFaultMemoryAsync(range: PreFaultRange): Promise<PreFaultProgress> {
    const bytes = encodeRange(range);
    this.beforeWrite();
    const code = await this.command(() => this.native.startPreFault(bytes));
    if (code < 0) {
      const name = errnoName(code);
      const error = Object.assign(new Error(name), { code: name, errno: code, syscall: 'KVM_PRE_FAULT_MEMORY' });
      throw explained(error, range);
    }
    return progress(bytes, range);
  }
}

function encodeRange(range: PreFaultRange): Uint8Array {
  const { gpa, size } = checkOptions('range', range, ['gpa', 'size']);
  return kvmPreFaultMemory.encode({ gpa: gpa!, size: pageAlignedGpaRange(gpa, size), flags: 0n });
}

function progress(bytes: Uint8Array, range: PreFaultRange): PreFaultProgress {
  const { gpa, size } = kvmPreFaultMemory.decode(bytes);
  return { done: BigInt(range.size) - size, gpa, size };
}

function explained(error: unknown, range: PreFaultRange): unknown {
  return wrapSystemError(error, {
    state: `gpa 0x${range.gpa.toString(16)}, size ${range.size}`,
    hint: HINTS[(error as { code?: string }).code ?? ''],
  });
}
