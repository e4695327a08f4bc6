/**
 * The conversion engine. Whoever asks, a conversion is the same: the ranges that are not in the wanted state yet get
 * the attribute, and then the side left behind is discarded where the policy says so. In this order, because a guest
 * that still reaches a page would refill it.
 *
 * The engine is written once, as a generator of system calls; it runs in the calling thread, or on the pool with an
 * `await` in the place of each call.
 */
import { PAGE_SIZE } from '../arguments.ts';
import { KvmError, KvmStateError, KvmSystemError, wrapSystemError } from '../errors.ts';
import { selectAttributesPort } from './attributes-port.ts';
import type { AttributesPort } from './attributes-port.ts';
import { dropShared, punchPrivate } from './discard.ts';
import type { Attribute, Conversion, ConversionSource, DiscardPolicy } from './events.ts';
import type { IntervalMap } from './interval-map.ts';
import { hex } from './layout.ts';
import type { Layout } from './layout.ts';
import type { VmPort } from './ports.ts';
import type { MemoryRegion } from './region.ts';
import { runLater, runNow } from './steps.ts';
import type { Steps } from './steps.ts';

export interface ConversionJob {
  /** Bytes, on page borders, all in slots. */
  readonly start: number;
  readonly end: number;
  readonly to: Attribute;
  readonly discard: DiscardPolicy;
  readonly source: ConversionSource;
}

export interface EngineContext {
  readonly vm: VmPort;
  readonly layout: Layout<MemoryRegion>;
  readonly attributes: IntervalMap<Attribute>;
  /** Called with each range whose state changed. */
  readonly changed: (start: number, end: number) => void;
}

// The kernel holds the slots lock for a whole call, about 0.15 s per GiB.
const CHUNK = 2 ** 30;

export class ConversionEngine {
  readonly #context: EngineContext;
  #port: AttributesPort | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #busy: { readonly start: number; readonly end: number } | undefined;
  /** Counts changes of the map. */
  generation = 0;

  constructor(context: EngineContext) {
    this.#context = context;
  }

  get port(): AttributesPort {
    return (this.#port ??= selectAttributesPort(this.#context.vm));
  }

  /** In the calling thread. Not where an asynchronous one is at work on a part of the range: it could not wait. */
  now(job: ConversionJob): Conversion {
    this.assertIdle(job.start, job.end);
    return runNow(this.#steps(job));
  }

  /** On the pool, after all that were asked for before. */
  later(job: ConversionJob, check: () => void = () => {}): Promise<Conversion> {
    return this.exclusive(job.start, job.end, async () => {
      check();
      return runLater(this.#steps(job));
    });
  }

  /** Runs asynchronous work on a range: one at a time, and no synchronous work on the range meanwhile. */
  exclusive<T>(start: number, end: number, work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(async () => {
      this.#busy = { start, end };
      try {
        return await work();
      } finally {
        this.#busy = undefined;
      }
    });
    this.#queue = result.catch(() => {});
    return result;
  }

  /** @throws KvmStateError `ERR_KVM_BUSY` while an asynchronous conversion is at work on a part of the range. */
  assertIdle(start: number, end: number): void {
    if (!this.#overlapsBusy(start, end)) return;
    throw new KvmStateError(`An asynchronous conversion of ${hex(this.#busy!.start)}-${hex(this.#busy!.end)} is in ` +
      'progress: await it first, or use the asynchronous call here too', 'ERR_KVM_BUSY');
  }

  #overlapsBusy(start: number, end: number): boolean {
    return this.#busy !== undefined && this.#busy.start < end && start < this.#busy.end;
  }

  *#steps(job: ConversionJob): Steps<Conversion> {
    const { start, end, to, discard, source } = job;
    const { attributes } = this.#context;
    const began = process.hrtime.bigint();
    let changed = 0;
    let discarded = 0;
    let discardError: Error | undefined;
    for (const interval of attributes.intervals(start / PAGE_SIZE, end / PAGE_SIZE)) {
      if (interval.value === to) continue;
      const last = interval.end * PAGE_SIZE;
      for (let from = interval.start * PAGE_SIZE; from < last; from += CHUNK) {
        const until = Math.min(from + CHUNK, last);
        yield* this.#setAttribute(job, from, until, changed);
        changed += until - from;
        try {
          discarded += yield* this.#discard(from, until, to, discard);
        } catch (error) {
          discardError ??= discardFailure(error, from, until, to);
        }
      }
    }
    const durationUs = Math.round(Number(process.hrtime.bigint() - began) / 1000);
    return { gpa: BigInt(start), size: end - start, to, source, changed, discarded, durationUs,
      ...(discardError === undefined ? {} : { discardError }) };
  }

  *#setAttribute(job: ConversionJob, from: number, until: number, done: number): Steps<void> {
    try {
      yield { now: () => this.port.set(from, until, job.to), later: () => this.port.setAsync(from, until, job.to) };
    } catch (error) {
      throw conversionFailure(error, job, from, done);
    }
    this.#context.attributes.set(from / PAGE_SIZE, until / PAGE_SIZE, job.to);
    this.generation++;
    this.#context.changed(from, until);
    if (job.to === 'shared') return;
    for (const segment of this.#context.layout.segments(from, until)) {
      segment.region.privatePages?.reachable(segment.region.privateOffset(segment.start), segment.end - segment.start);
    }
  }

  *#discard(from: number, until: number, to: Attribute, policy: DiscardPolicy): Steps<number> {
    const left: Attribute = to === 'private' ? 'shared' : 'private';
    if (policy !== 'both' && policy !== left) return 0;
    let bytes = 0;
    for (const { region, start, end } of this.#context.layout.segments(from, until)) {
      if (!region.convertible) continue;
      bytes += left === 'shared' ? yield* dropShared(this.#context.attributes, region, start, end)
        : yield* punchPrivate(this.#context.attributes, region, start, end);
    }
    return bytes;
  }
}

function conversionFailure(error: unknown, { start, end, to }: ConversionJob, from: number, done: number): unknown {
  const wrapped = wrapSystemError(error);
  if (!(wrapped instanceof KvmSystemError)) return wrapped;
  const { code, errno, syscall } = wrapped;
  const hint = code === 'ENOMEM' ? 'each page of the range takes kernel memory (about 2.4 MiB per GiB)' : wrapped.hint;
  return new KvmSystemError(`Converting ${hex(start)}-${hex(end)} to ${to} failed at ${hex(from)}, with ${done} ` +
    `bytes ` +
    `converted before it (which stay converted): ${wrapped.message}`, { code, errno, syscall, hint, cause: error });
}

function discardFailure(error: unknown, from: number, until: number, to: Attribute): Error {
  const wrapped = wrapSystemError(error);
  const message = `${hex(from)}-${hex(until)} is ${to} now, but the side left behind could not be discarded and ` +
    `still takes memory: ${(wrapped as Error).message}`;
  if (!(wrapped instanceof KvmSystemError)) return new KvmError(message, 'ERR_KVM_DISCARD', { cause: error });
  const { code, errno, syscall, hint } = wrapped;
  return new KvmSystemError(message, { code, errno, syscall, hint, cause: error });
}
