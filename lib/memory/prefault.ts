/**
 * Pre-fault: mapping guest memory before the guest touches it, as a read fault would. The kernel does a part of the
 * range at a time and says what is left; here are the loop, the vCPUs that share the work, and what errors mean.
 *
 * *KVM_PRE_FAULT_MEMORY*
 */
import * as args from '../arguments.ts';
import { CAPS } from '../abi/index.ts';
import { KvmStateError, KvmSystemError, KvmUnsupportedError, wrapSystemError } from '../errors.ts';
import { hex } from './layout.ts';
import type { VcpuPort, VmPort } from './ports.ts';

/** How far a pre-fault has come. */
export interface PrefaultProgress {
  /** Bytes mapped so far, by all vCPUs. */
  readonly bytes: number;
  /** Bytes asked for. */
  readonly total: number;
}

/** What range to map ahead of the guest, and with which vCPUs. */
export interface PrefaultOptions {
  /** A multiple of 4096. */
  readonly gpa: bigint;
  /** In bytes, a multiple of 4096. */
  readonly size: number;
  /** One or more vCPUs of the VM, none of them running. They share the range, each on its own thread. */
  readonly vcpus: readonly VcpuPort[];
  /** Called after each call of the kernel. */
  readonly onProgress?: (progress: PrefaultProgress) => void;
  /** Ends between two chunks; the promise rejects with `signal.reason`. */
  readonly signal?: AbortSignal;
  /** Bytes that a vCPU takes at a time, a multiple of 4096. Default 32 MiB. */
  readonly chunk?: number;
}

/** What a pre-fault did and took. */
export interface PrefaultResult {
  /** Bytes that are mapped: those asked for. */
  readonly bytes: number;
  /** How many calls of the kernel it took. */
  readonly calls: number;
  /** Microseconds of wall time. */
  readonly durationUs: number;
}

export interface PrefaultContext {
  readonly vm: VmPort;
  /** What the memory layout knows of an address, for the message. */
  readonly explain: (gpa: number) => string;
  /** Called with each range that was mapped. */
  readonly mapped: (start: number, end: number) => void;
}

const KEYS = ['gpa', 'size', 'vcpus', 'onProgress', 'signal', 'chunk'] as const;
const CHUNK = 32 * 1024 * 1024;
// EAGAIN says that a slot is being changed. Nothing changes slots for this long.
const MAX_RETRIES = 10_000;

export async function prefault(context: PrefaultContext, options: PrefaultOptions): Promise<PrefaultResult> {
  const given = args.options('options', options, KEYS);
  const size = Number(args.pageAlignedGpaRange(given.gpa, given.size));
  const start = Number(given.gpa);
  const vcpus = checkVcpus(context.vm, given.vcpus);
  const chunk = args.pageAlignedSize('chunk', given.chunk ?? CHUNK);
  if (given.onProgress !== undefined) args.callback('onProgress', given.onProgress);
  if (given.signal !== undefined && !(given.signal instanceof AbortSignal)) {
    throw args.typeError('an AbortSignal', 'signal', given.signal);
  }
  given.signal?.throwIfAborted();
  if (context.vm.checkExtension(CAPS.KVM_CAP_PRE_FAULT_MEMORY) === 0) {
    throw new KvmUnsupportedError(
      'This VM has no KVM_PRE_FAULT_MEMORY: it needs Linux 6.11 and two-dimensional ' + 'paging (EPT or NPT)',
      'KVM_CAP_PRE_FAULT_MEMORY',
    );
  }
  const work = new Work(context, start, start + size, given.onProgress, given.signal);
  const began = process.hrtime.bigint();
  // A chunk that leaves each vCPU something to do.
  const share = Math.ceil(size / vcpus.length / args.PAGE_SIZE) * args.PAGE_SIZE;
  const ends = await Promise.allSettled(vcpus.map((vcpu) => work.run(vcpu, Math.min(chunk, share))));
  const failed = ends.find((end) => end.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  return {
    bytes: work.bytes,
    calls: work.calls,
    durationUs: Math.round(Number(process.hrtime.bigint() - began) / 1000),
  };
}

class Work {
  bytes = 0;
  calls = 0;
  readonly #context: PrefaultContext;
  readonly #start: number;
  readonly #end: number;
  readonly #onProgress: PrefaultOptions['onProgress'];
  readonly #signal: AbortSignal | undefined;
  #next: number;
  #stopped = false;

  constructor(
    context: PrefaultContext,
    start: number,
    end: number,
    onProgress: PrefaultOptions['onProgress'],
    signal: AbortSignal | undefined,
  ) {
    this.#context = context;
    this.#start = start;
    this.#next = start;
    this.#end = end;
    this.#onProgress = onProgress;
    this.#signal = signal;
  }

  /** Takes chunks until there are none, so that a vCPU that is quicker does more. */
  async run(vcpu: VcpuPort, chunk: number): Promise<void> {
    try {
      while (!this.#stopped && this.#next < this.#end) {
        const from = this.#next;
        const until = Math.min(from + chunk, this.#end);
        this.#next = until;
        await this.#map(vcpu, from, until);
      }
    } catch (error) {
      this.#stopped = true;
      throw error;
    }
  }

  async #map(vcpu: VcpuPort, from: number, until: number): Promise<void> {
    let retries = 0;
    while (from < until) {
      this.#signal?.throwIfAborted();
      if (this.#stopped) return;
      try {
        this.calls++;
        const left = await vcpu.preFaultMemoryAsync({ gpa: BigInt(from), size: BigInt(until - from) });
        // A huge page may reach beyond the end; the kernel clamps that, and so do we.
        const at = until - Number(left.size);
        if (at <= from) throw new KvmStateError(`KVM_PRE_FAULT_MEMORY at ${hex(from)} succeeded without progress`);
        this.#advance(from, at);
        from = at;
        retries = 0;
      } catch (error) {
        const wrapped = wrapSystemError(error);
        const retry = wrapped instanceof KvmSystemError && (wrapped.code === 'EINTR' || wrapped.code === 'EAGAIN');
        if (!retry || ++retries > MAX_RETRIES) throw this.#explain(wrapped, from);
        await new Promise(setImmediate);
      }
    }
  }

  #advance(from: number, at: number): void {
    this.#context.mapped(from, at);
    this.bytes += at - from;
    this.#onProgress?.({ bytes: this.bytes, total: this.#end - this.#start });
  }

  #explain(error: unknown, from: number): unknown {
    if (!(error instanceof KvmSystemError)) return error;
    const { code, errno, syscall } = error;
    const done = `Pre-fault of ${hex(this.#start)}-${hex(this.#end)} stopped at ${hex(from)} after ${this.bytes} bytes`;
    if (code === 'EOPNOTSUPP') {
      return new KvmUnsupportedError(
        `${done}: ${syscall}: EOPNOTSUPP. The processor must translate guest addresses ` +
          'in hardware (EPT or NPT, the tdp_mmu), no nested guest may be active on the vCPU, and an SNP or TDX guest ' +
          'must be finalised first',
        'KVM_CAP_PRE_FAULT_MEMORY',
        { cause: error },
      );
    }
    const why: Record<string, string> = {
      ENOENT: 'no memslot is there',
      EFAULT: 'the range is private, and its slot has no guest_memfd (or it is closed)',
      ENOMEM: 'the host has no memory left',
      EHWPOISON: 'the page behind it has a hardware error',
    };
    const hint = `${why[code] ?? 'not known'}; ${this.#context.explain(from)}`;
    return new KvmSystemError(`${done}: ${syscall}: ${code}. Likely cause: ${hint}`, {
      code,
      errno,
      syscall,
      hint,
      cause: error,
    });
  }
}

function checkVcpus(vm: VmPort, vcpus: readonly VcpuPort[] | undefined): readonly VcpuPort[] {
  if (!Array.isArray(vcpus)) throw args.typeError('an array of Vcpu', 'vcpus', vcpus);
  if (vcpus.length === 0) throw args.rangeError('at least one vCPU', 'vcpus', vcpus);
  if (new Set(vcpus).size !== vcpus.length) throw args.rangeError('each vCPU once', 'vcpus', vcpus);
  for (const vcpu of vcpus as readonly VcpuPort[]) {
    if (typeof vcpu !== 'object' || vcpu === null)
      throw args.typeError('a Vcpu', `vcpus[${vcpus.indexOf(vcpu)}]`, vcpu);
    if (vcpu.vm !== vm) throw new KvmStateError(`vCPU ${vcpu.id} belongs to another VM`, 'ERR_KVM_FOREIGN');
    if (vcpu.running) {
      throw new KvmStateError(`vCPU ${vcpu.id} is running: pre-fault needs one that is not`, 'ERR_KVM_RUNNING');
    }
  }
  return vcpus;
}
