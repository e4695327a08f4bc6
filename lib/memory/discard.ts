/** Giving pages back, on one side or the other, and allocating them on the private one. */
import { PAGE_SIZE } from '../arguments.ts';
import type { Attribute } from './events.ts';
import type { IntervalMap } from './interval-map.ts';
import { MADV_DONTNEED, MADV_REMOVE } from './ports.ts';
import type { MemoryRegion } from './region.ts';
import type { Steps } from './steps.ts';

/**
 * Drops the host's pages of [start, end) of a region, as its backing allows; returns the bytes of range given back.
 * A huge page goes only as a whole, once all of it is private: the rest of it may be in use.
 */
export function* dropShared(
  attributes: IntervalMap<Attribute>, region: MemoryRegion, start: number, end: number,
): Steps<number> {
  const { host, opened: { drop, granule } } = region;
  if (host === undefined || drop === 'none') return 0;
  const [from, until] = granule === PAGE_SIZE ? [start, end] : wholeGranules(attributes, region, start, end, granule);
  if (from >= until) return 0;
  const advice = drop === 'dontneed' ? MADV_DONTNEED : MADV_REMOVE;
  const offset = from - region.start;
  yield {
    now: () => host.madvise(offset, until - from, advice),
    later: () => host.madviseAsync(offset, until - from, advice),
  };
  return until - from;
}

/** Punches a hole into the guest_memfd behind [start, end) of a region. */
export function* punchPrivate(
  attributes: IntervalMap<Attribute>, region: MemoryRegion, start: number, end: number,
): Steps<number> {
  const { guestMemfd } = region;
  if (guestMemfd === undefined) return 0;
  const offset = region.privateOffset(start);
  const length = end - start;
  yield {
    now: () => guestMemfd.punchHole(BigInt(offset), BigInt(length)),
    later: () => guestMemfd.punchHoleAsync(BigInt(offset), BigInt(length)),
  };
  for (const part of attributes.intervals(start / PAGE_SIZE, end / PAGE_SIZE)) {
    const at = region.privateOffset(part.start * PAGE_SIZE);
    region.privatePages?.punched(at, (part.end - part.start) * PAGE_SIZE, part.value === 'private');
  }
  return length;
}

/** Allocates the pages of the guest_memfd behind [start, end) of a region: zeros, where there are none yet. */
export function* allocatePrivate(region: MemoryRegion, start: number, end: number): Steps<number> {
  const { guestMemfd } = region;
  if (guestMemfd === undefined) return 0;
  const offset = region.privateOffset(start);
  const length = end - start;
  yield {
    now: () => guestMemfd.fallocate(BigInt(offset), BigInt(length)),
    later: () => guestMemfd.fallocateAsync(BigInt(offset), BigInt(length)),
  };
  region.privatePages?.populated(offset, length);
  return length;
}

/** [start, end) widened to granules of the region, less those at its ends that are not private as a whole. */
function wholeGranules(
  attributes: IntervalMap<Attribute>, region: MemoryRegion, start: number, end: number, granule: number,
): [number, number] {
  let from = region.start + Math.floor((start - region.start) / granule) * granule;
  let until = region.start + Math.ceil((end - region.start) / granule) * granule;
  const whole = (at: number): boolean => attributes.every(at / PAGE_SIZE, (at + granule) / PAGE_SIZE, 'private');
  if (from < until && !whole(from)) from += granule;
  if (from < until && !whole(until - granule)) until -= granule;
  return [from, until];
}
