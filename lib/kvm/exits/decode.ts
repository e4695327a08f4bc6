/**
 * Reads the exit out of a kvm_run mapping. Knows nothing of KVM beyond *struct kvm_run*, so it is tested with plain
 * buffers.
 *
 * The mapping is shared with the kernel and with other threads: each field is read once, checked, then used.
 */
import {
  exitHypercall,
  exitIo,
  exitMemoryFault,
  exitMmio,
  exitMsr,
  KVM_MEMORY_EXIT_FLAG_PRIVATE,
  KVM_MSR_EXIT_REASON_FILTER,
  KVM_MSR_EXIT_REASON_INVAL,
  KVM_PIO_PAGE_OFFSET,
} from '../../abi/index.ts';
import { PAGE_SIZE } from '../../arguments.ts';
import { KvmGuestError } from '../../errors.ts';
import { decodeRareExit } from './decode-rare.ts';
import {
  KVM_EXIT_HLT,
  KVM_EXIT_HYPERCALL,
  KVM_EXIT_IO,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_MEMORY_FAULT,
  KVM_EXIT_MMIO,
  KVM_EXIT_SHUTDOWN,
  KVM_EXIT_X86_RDMSR,
  KVM_EXIT_X86_WRMSR,
} from './reasons.ts';
import type {
  HypercallExit,
  IoExit,
  MemoryFaultExit,
  MmioExit,
  MsrExitCause,
  RdmsrExit,
  VcpuExit,
  WrmsrExit,
} from './types.ts';

/** -KVM_ENOSYS: what a guest gets for a hypercall that nobody answers. */
export const HYPERCALL_UNANSWERED = -1000n;

// The tables' offsets as constants: a port or MMIO exit is decoded by a few reads, without a walk over fields.
const IO_DIRECTION = exitIo.fields.direction.offset;
const IO_SIZE = exitIo.fields.size.offset;
const IO_PORT = exitIo.fields.port.offset;
const IO_COUNT = exitIo.fields.count.offset;
const IO_DATA_OFFSET = exitIo.fields.dataOffset.offset;
const MMIO_GPA = exitMmio.fields.physAddr.offset;
const MMIO_DATA = exitMmio.fields.data.offset;
const MMIO_LENGTH = exitMmio.fields.len.offset;
const MMIO_IS_WRITE = exitMmio.fields.isWrite.offset;

const HYPERCALL_NR = exitHypercall.fields.nr.offset;
const HYPERCALL_ARGS = exitHypercall.fields.args.offset;
const HYPERCALL_FLAGS = exitHypercall.fields.flags.offset;

const EFAULT = 14;
const EHWPOISON = 133;
/** io.data_offset of every kernel so far: the page after kvm_run. Another value costs a new view per exit. */
const USUAL_IO_OFFSET = KVM_PIO_PAGE_OFFSET * PAGE_SIZE;
const CACHED_IO_LENGTH = 8;
const MAX_MMIO_LENGTH = 8;

/** Decodes the exits of one vCPU. Views for the exits of the hot path are made once. */
export class ExitDecoder {
  readonly #run: ArrayBuffer;
  readonly #fields: DataView;
  readonly #io: Uint8Array[] = [];
  readonly #mmio: Uint8Array[] = [];
  #hypercallRet: BigInt64Array | undefined;

  /** `run` is the whole mapping of the vCPU, with the page of port data. */
  constructor(run: ArrayBuffer) {
    this.#run = run;
    this.#fields = new DataView(run);
    for (let length = 0; length <= MAX_MMIO_LENGTH; length++) {
      this.#mmio.push(new Uint8Array(run, MMIO_DATA, length));
    }
    for (let length = 0; length <= CACHED_IO_LENGTH && USUAL_IO_OFFSET + length <= run.byteLength; length++) {
      this.#io.push(new Uint8Array(run, USUAL_IO_OFFSET, length));
    }
  }

  /**
   * The exit behind `code`: an `exit_reason` that came with a KVM_RUN that returned 0, or 39 | errno << 16 for a memory
   * fault. Presets the answers that KVM does not (see {@link VcpuExit}).
   *
   * @throws KvmGuestError where the mapping describes data outside of itself.
   */
  decode(code: number): VcpuExit {
    switch (code) {
      case KVM_EXIT_IO:
        return this.#decodeIo();
      case KVM_EXIT_MMIO:
        return this.#decodeMmio();
      case KVM_EXIT_HLT:
        return { reason: 'hlt' };
      case KVM_EXIT_HYPERCALL:
        return this.#decodeHypercall();
      case KVM_EXIT_IRQ_WINDOW_OPEN:
        return { reason: 'irq-window-open' };
      case KVM_EXIT_SHUTDOWN:
        return { reason: 'shutdown' };
      case KVM_EXIT_X86_RDMSR:
        return this.#decodeMsr('rdmsr');
      case KVM_EXIT_X86_WRMSR:
        return this.#decodeMsr('wrmsr');
      case KVM_EXIT_MEMORY_FAULT | (EFAULT << 16):
        return this.#decodeMemoryFault('EFAULT');
      case KVM_EXIT_MEMORY_FAULT | (EHWPOISON << 16):
        return this.#decodeMemoryFault('EHWPOISON');
      default:
        return decodeRareExit(code, this.#run, this.#fields);
    }
  }

  #decodeIo(): IoExit {
    const fields = this.#fields;
    const direction = fields.getUint8(IO_DIRECTION) === 0 ? 'in' : 'out';
    const size = fields.getUint8(IO_SIZE);
    const port = fields.getUint16(IO_PORT, true);
    const count = fields.getUint32(IO_COUNT, true);
    const offset = fields.getUint32(IO_DATA_OFFSET, true) + fields.getUint32(IO_DATA_OFFSET + 4, true) * 0x1_0000_0000;
    const length = size * count;
    const data =
      offset === USUAL_IO_OFFSET && length < this.#io.length
        ? this.#io[length]!
        : this.#ioView(offset, length, port, size, count);
    return { reason: 'io', direction, port, size, count, data };
  }

  #ioView(offset: number, length: number, port: number, size: number, count: number): Uint8Array {
    if (offset + length > this.#run.byteLength) {
      throw new KvmGuestError(
        `The port data of an exit (offset ${offset}, ${length} bytes) lies outside the kvm_run mapping of ` +
          `${this.#run.byteLength} bytes`,
        { exit: { reason: 'io', port, size, count } },
      );
    }
    return new Uint8Array(this.#run, offset, length);
  }

  #decodeMmio(): MmioExit {
    const fields = this.#fields;
    const gpa = fields.getBigUint64(MMIO_GPA, true);
    const length = fields.getUint32(MMIO_LENGTH, true);
    const data = this.#mmio[length];
    if (data === undefined) {
      throw new KvmGuestError(
        `An MMIO exit at gpa 0x${gpa.toString(16)} says ${length} bytes, and the limit is ${MAX_MMIO_LENGTH}`,
        { exit: { reason: 'mmio', gpa, length } },
      );
    }
    return { reason: 'mmio', direction: fields.getUint8(MMIO_IS_WRITE) === 0 ? 'read' : 'write', gpa, data };
  }

  #decodeHypercall(): HypercallExit {
    const fields = this.#fields;
    const nr = fields.getBigUint64(HYPERCALL_NR, true);
    const arg = (index: number): bigint => fields.getBigUint64(HYPERCALL_ARGS + index * 8, true);
    const args = [arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)];
    const flags = fields.getBigUint64(HYPERCALL_FLAGS, true);
    const ret = (this.#hypercallRet ??= new BigInt64Array(this.#run, exitHypercall.fields.ret.offset, 1));
    // KVM 6.12 leaves the bytes of an earlier exit here, and the guest would get them as the result.
    ret[0] = HYPERCALL_UNANSWERED;
    return { reason: 'hypercall', nr: Number(nr), args, flags, longMode: (flags & 1n) !== 0n, ret };
  }

  #decodeMsr(reason: 'rdmsr'): RdmsrExit;
  #decodeMsr(reason: 'wrmsr'): WrmsrExit;
  #decodeMsr(reason: 'rdmsr' | 'wrmsr'): RdmsrExit | WrmsrExit {
    const { index, reason: causeBits } = exitMsr.decode(this.#fields);
    const cause: MsrExitCause =
      causeBits === KVM_MSR_EXIT_REASON_FILTER
        ? 'filter'
        : causeBits === KVM_MSR_EXIT_REASON_INVAL
          ? 'invalid'
          : 'unknown';
    return {
      reason,
      index,
      cause,
      causeBits,
      error: new Uint8Array(this.#run, exitMsr.fields.error.offset, 1),
      data: new BigUint64Array(this.#run, exitMsr.fields.data.offset, 1),
    };
  }

  #decodeMemoryFault(errno: 'EFAULT' | 'EHWPOISON'): MemoryFaultExit {
    const { gpa, size, flags } = exitMemoryFault.decode(this.#fields);
    return { reason: 'memory-fault', gpa, size, flags, private: (flags & KVM_MEMORY_EXIT_FLAG_PRIVATE) !== 0n, errno };
  }
}
