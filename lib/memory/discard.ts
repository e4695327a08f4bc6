/**
 * Giving pages back, on one side or the other, and allocating them on the private one. Each is a piece of work that can
 * be done in the calling thread or on a pool thread, and notes what it did in either case.
 */
import { PAGE_SIZE } from '../arguments.ts';
import type { Attribute } from './events.ts';
import type { HostSide } from './host-side.ts';
import type { IntervalMap } from './interval-map.ts';
import { MADV_DONTNEED, MADV_REMOVE } from './ports.ts';
import type { GuestMemfdPort } from './ports.ts';
import type { MemoryRegion } from './region.ts';

/** One system call about one region. */
export interface Piece {
  /** Bytes of range that it is about. */
  readonly bytes: number;
  /** The call in this thread. */
  now(): void;
  /** The same call on a pool thread. */
  later(): Promise<void>;
}

export function allNow(pieces: readonly Piece[]): number {
  let bytes = 0;
  for (const piece of pieces) {
    piece.now();
    bytes += piece.bytes;
  }
  return bytes;
}

export async function allLater(pieces: readonly Piece[]): Promise<number> {
  let bytes = 0;
  for (const piece of pieces) {
    await piece.later();
    bytes += piece.bytes;
  }
  return bytes;
}

/**
 * Drops the host's pages of [start, end) of a region, as its backing allows; undefined where there is nothing to drop.
 * A huge page goes only as a whole, once all of it is private: the rest of it may be in use.
 */
export function dropShared(
  attributes: IntervalMap<Attribute>,
  region: MemoryRegion,
  start: number,
  end: number,
): Piece | undefined {
  const {
    host,
    opened: { drop, granule },
  } = region;
  if (host === undefined || drop === 'none') return undefined;
  const [from, until] = granule === PAGE_SIZE ? [start, end] : wholeGranules(attributes, region, start, end, granule);
  if (from >= until) return undefined;
  return new Drop(host, from - region.start, until - from, drop === 'dontneed' ? MADV_DONTNEED : MADV_REMOVE);
}

/** Punches a hole into the guest_memfd behind [start, end) of a region. */
export function punchPrivate(
  attributes: IntervalMap<Attribute>,
  region: MemoryRegion,
  start: number,
  end: number,
): Piece | undefined {
  const { guestMemfd } = region;
  return guestMemfd === undefined ? undefined : new Punch(guestMemfd, attributes, region, start, end);
}

/** Allocates the pages of the guest_memfd behind [start, end) of a region: zeros, where there are none yet. */
export function allocatePrivate(region: MemoryRegion, start: number, end: number): Piece | undefined {
  const { guestMemfd } = region;
  return guestMemfd === undefined ? undefined : new Allocation(guestMemfd, region, start, end);
}

class Drop implements Piece {
  readonly bytes: number;
  readonly #host: HostSide;
  readonly #offset: number;
  readonly #advice: number;

  constructor(host: HostSide, offset: number, bytes: number, advice: number) {
    this.bytes = bytes;
    this.#host = host;
    this.#offset = offset;
    this.#advice = advice;
  }

  now(): void {
    this.#host.madvise(this.#offset, this.bytes, this.#advice);
  }

  later(): Promise<void> {
    return this.#host.madviseAsync(this.#offset, this.bytes, this.#advice);
  }
}

class Punch implements Piece {
  readonly bytes: number;
  readonly #guestMemfd: GuestMemfdPort;
  readonly #attributes: IntervalMap<Attribute>;
  readonly #region: MemoryRegion;
  readonly #start: number;

  constructor(
    guestMemfd: GuestMemfdPort,
    attributes: IntervalMap<Attribute>,
    region: MemoryRegion,
    start: number,
    end: number,
  ) {
    this.bytes = end - start;
    this.#guestMemfd = guestMemfd;
    this.#attributes = attributes;
    this.#region = region;
    this.#start = start;
  }

  now(): void {
    this.#guestMemfd.punchHole(this.#region.privateOffset(this.#start), this.bytes);
    this.#note();
  }

  async later(): Promise<void> {
    await this.#guestMemfd.punchHoleAsync(this.#region.privateOffset(this.#start), this.bytes);
    this.#note();
  }

  #note(): void {
    const pages = this.#region.privatePages;
    if (pages === undefined) return;
    const [first, last] = [this.#start / PAGE_SIZE, (this.#start + this.bytes) / PAGE_SIZE];
    for (const part of this.#attributes.intervals(first, last)) {
      const at = this.#region.privateOffset(part.start * PAGE_SIZE);
      pages.punched(at, (part.end - part.start) * PAGE_SIZE, part.value === 'private');
    }
  }
}

class Allocation implements Piece {
  readonly bytes: number;
  readonly #guestMemfd: GuestMemfdPort;
  readonly #region: MemoryRegion;
  readonly #offset: number;

  constructor(guestMemfd: GuestMemfdPort, region: MemoryRegion, start: number, end: number) {
    this.bytes = end - start;
    this.#guestMemfd = guestMemfd;
    this.#region = region;
    this.#offset = region.privateOffset(start);
  }

  now(): void {
    this.#guestMemfd.fallocate(this.#offset, this.bytes);
    this.#note();
  }

  async later(): Promise<void> {
    await this.#guestMemfd.fallocateAsync(this.#offset, this.bytes);
    this.#note();
  }

  #note(): void {
    this.#region.privatePages?.populated(this.#offset, this.bytes);
  }
}

/** [start, end) widened to granules of the region, less those at its ends that are not private as a whole. */
function wholeGranules(
  attributes: IntervalMap<Attribute>,
  region: MemoryRegion,
  start: number,
  end: number,
  granule: number,
): [number, number] {
  let from = region.start + Math.floor((start - region.start) / granule) * granule;
  let until = region.start + Math.ceil((end - region.start) / granule) * granule;
  const whole = (at: number): boolean => attributes.every(at / PAGE_SIZE, (at + granule) / PAGE_SIZE, 'private');
  if (from < until && !whole(from)) from += granule;
  if (from < until && !whole(until - granule)) until -= granule;
  return [from, until];
}
