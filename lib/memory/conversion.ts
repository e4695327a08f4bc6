/**
 * The conversion engine. Whoever asks, a conversion is the same: the ranges that are not in the wanted state yet get
 * the attribute, and then the side left behind is discarded where the policy says so. In this order, because a guest
 * that still reaches a page would refill it.
 *
 * It runs in the calling thread, or with each system call on the pool. Only the order of the calls is written twice:
 * what is called, and what is noted afterwards, is the same. (One generator for both would be shorter, but costs ten
 * times as much as the ioctl for a page.)
 */
import { PAGE_SIZE } from '../arguments.ts';
import { KvmError, KvmStateError, KvmSystemError, wrapSystemError } from '../errors.ts';
import { selectAttributesPort } from './attributes-port.ts';
import type { AttributesPort } from './attributes-port.ts';
import { dropShared, punchPrivate } from './discard.ts';
import type { Piece } from './discard.ts';
import type { Attribute, Conversion, ConversionSource, DiscardPolicy } from './events.ts';
import type { IntervalMap } from './interval-map.ts';
import { hex } from './layout.ts';
import type { Layout } from './layout.ts';
import type { VmPort } from './ports.ts';
import type { MemoryRegion } from './region.ts';

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

interface Part {
  readonly from: number;
  readonly until: number;
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
    const tally = new Tally(job);
    for (const part of this.#parts(job)) {
      try {
        this.port.set(part.from, part.until, job.to);
      } catch (error) {
        throw conversionFailure(error, job, part.from, tally.changed);
      }
      this.#note(job.to, part, tally);
      try {
        for (const piece of this.#leftBehind(job, part)) {
          piece.now();
          tally.discarded += piece.bytes;
        }
      } catch (error) {
        tally.failed(error, part);
      }
    }
    return tally.conversion();
  }

  /** On the pool, after all that were asked for before. */
  later(job: ConversionJob, check: () => void = () => {}): Promise<Conversion> {
    return this.exclusive(job.start, job.end, async () => {
      check();
      return this.#run(job);
    });
  }

  async #run(job: ConversionJob): Promise<Conversion> {
    const tally = new Tally(job);
    for (const part of this.#parts(job)) {
      try {
        await this.port.setAsync(part.from, part.until, job.to);
      } catch (error) {
        throw conversionFailure(error, job, part.from, tally.changed);
      }
      this.#note(job.to, part, tally);
      try {
        for (const piece of this.#leftBehind(job, part)) {
          await piece.later();
          tally.discarded += piece.bytes;
        }
      } catch (error) {
        tally.failed(error, part);
      }
    }
    return tally.conversion();
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
    throw new KvmStateError(
      `An asynchronous conversion of ${hex(this.#busy!.start)}-${hex(this.#busy!.end)} is in ` +
        'progress: await it first, or use the asynchronous call here too',
      'ERR_KVM_BUSY',
    );
  }

  #overlapsBusy(start: number, end: number): boolean {
    return this.#busy !== undefined && this.#busy.start < end && start < this.#busy.end;
  }

  /** What of the range is not as wanted yet, in parts that the kernel takes at once. */
  #parts({ start, end, to }: ConversionJob): Part[] {
    const parts: Part[] = [];
    for (const interval of this.#context.attributes.intervals(start / PAGE_SIZE, end / PAGE_SIZE)) {
      if (interval.value === to) continue;
      const last = interval.end * PAGE_SIZE;
      for (let from = interval.start * PAGE_SIZE; from < last; from += CHUNK) {
        parts.push({ from, until: Math.min(from + CHUNK, last) });
      }
    }
    return parts;
  }

  /** The kernel has set the attribute of a part. */
  #note(to: Attribute, { from, until }: Part, tally: Tally): void {
    const { attributes, layout, changed } = this.#context;
    attributes.set(from / PAGE_SIZE, until / PAGE_SIZE, to);
    this.generation++;
    changed(from, until);
    tally.changed += until - from;
    if (to === 'shared') return;
    for (const { region, start, end } of layout.segments(from, until)) {
      region.privatePages?.reachable(region.privateOffset(start), end - start);
    }
  }

  #leftBehind({ to, discard }: ConversionJob, { from, until }: Part): Piece[] {
    const pieces: Piece[] = [];
    const left: Attribute = to === 'private' ? 'shared' : 'private';
    if (discard !== 'both' && discard !== left) return pieces;
    const { attributes, layout } = this.#context;
    for (const { region, start, end } of layout.segments(from, until)) {
      if (!region.convertible) continue;
      const piece = (left === 'shared' ? dropShared : punchPrivate)(attributes, region, start, end);
      if (piece !== undefined) pieces.push(piece);
    }
    return pieces;
  }
}

/** What a conversion has done so far. */
class Tally {
  changed = 0;
  discarded = 0;
  #discardError: Error | undefined;
  readonly #job: ConversionJob;
  readonly #began = performance.now();

  constructor(job: ConversionJob) {
    this.#job = job;
  }

  failed(error: unknown, { from, until }: Part): void {
    this.#discardError ??= discardFailure(error, from, until, this.#job.to);
  }

  conversion(): Conversion {
    const { start, end, to, source } = this.#job;
    const { changed, discarded } = this;
    const durationUs = Math.round((performance.now() - this.#began) * 1000);
    const done: Conversion = { gpa: BigInt(start), size: end - start, to, source, changed, discarded, durationUs };
    return this.#discardError === undefined ? done : { ...done, discardError: this.#discardError };
  }
}

function conversionFailure(error: unknown, { start, end, to }: ConversionJob, from: number, done: number): unknown {
  const wrapped = wrapSystemError(error);
  if (!(wrapped instanceof KvmSystemError)) return wrapped;
  const { code, errno, syscall } = wrapped;
  const hint = code === 'ENOMEM' ? 'each page of the range takes kernel memory (about 2.4 MiB per GiB)' : wrapped.hint;
  return new KvmSystemError(
    `Converting ${hex(start)}-${hex(end)} to ${to} failed at ${hex(from)}, with ${done} ` +
      `bytes ` +
      `converted before it (which stay converted): ${wrapped.message}`,
    { code, errno, syscall, hint, cause: error },
  );
}

function discardFailure(error: unknown, from: number, until: number, to: Attribute): Error {
  const wrapped = wrapSystemError(error);
  const message =
    `${hex(from)}-${hex(until)} is ${to} now, but the side left behind could not be discarded and ` +
    `still takes memory: ${(wrapped as Error).message}`;
  if (!(wrapped instanceof KvmSystemError)) return new KvmError(message, 'ERR_KVM_DISCARD', { cause: error });
  const { code, errno, syscall, hint } = wrapped;
  return new KvmSystemError(message, { code, errno, syscall, hint, cause: error });
}
