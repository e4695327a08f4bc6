/**
 * What is known about the pages that a guest_memfd holds. The kernel does not tell: `st_blocks` is always 0 and there is
 * nothing like mincore for pages that no one mapped. So this is bookkeeping, and says honestly what it cannot know: a
 * range that was private may have been touched by the guest, or not.
 */
import { PAGE_SIZE } from '../arguments.ts';
import { IntervalMap } from './interval-map.ts';
import type { GuestMemfdPort } from './ports.ts';

/** `'none'`: certainly no pages. `'maybe'`: the guest could have touched it. `'populated'`: certainly all pages. */
export type PrivatePagesState = 'none' | 'maybe' | 'populated';

/** A number of bytes that is not known exactly. */
export interface Bounds {
  readonly atLeast: number;
  readonly atMost: number;
}

// By guest_memfd and not by region: the content, and so what is known of it, outlives the memslot.
const books = new WeakMap<GuestMemfdPort, PrivatePages>();

/** The bookkeeping of a guest_memfd. One that comes from elsewhere may hold pages already. */
export function privatePagesOf(guestMemfd: GuestMemfdPort, initial: PrivatePagesState = 'maybe'): PrivatePages {
  let pages = books.get(guestMemfd);
  if (pages === undefined) {
    pages = new PrivatePages(Number(guestMemfd.size) / PAGE_SIZE, initial);
    books.set(guestMemfd, pages);
  }
  return pages;
}

/** All offsets and lengths are in bytes, on page borders, in the guest_memfd. */
export class PrivatePages {
  readonly #map: IntervalMap<PrivatePagesState>;

  constructor(pages: number, initial: PrivatePagesState) {
    this.#map = new IntervalMap<PrivatePagesState>(initial, pages);
  }

  /** The range became private, so the guest may touch it from now on. */
  reachable(offset: number, length: number): void {
    for (const { start, end, value } of this.#map.intervals(offset / PAGE_SIZE, (offset + length) / PAGE_SIZE)) {
      if (value === 'none') this.#map.set(start, end, 'maybe');
    }
  }

  /** Allocated or pre-faulted. */
  populated(offset: number, length: number): void {
    this.#map.set(offset / PAGE_SIZE, (offset + length) / PAGE_SIZE, 'populated');
  }

  /** A hole was punched. `reachable`: the guest can touch it again at once. */
  punched(offset: number, length: number, reachable: boolean): void {
    this.#map.set(offset / PAGE_SIZE, (offset + length) / PAGE_SIZE, reachable ? 'maybe' : 'none');
  }

  /** Ranges in bytes that may hold pages, in order. */
  held(offset: number, length: number): { offset: number; length: number; certain: boolean }[] {
    return this.#map
      .intervals(offset / PAGE_SIZE, (offset + length) / PAGE_SIZE)
      .filter(({ value }) => value !== 'none')
      .map(({ start, end, value }) => ({
        offset: start * PAGE_SIZE,
        length: (end - start) * PAGE_SIZE,
        certain: value === 'populated',
      }));
  }

  bounds(offset: number, length: number): Bounds {
    let atLeast = 0;
    let atMost = 0;
    for (const range of this.held(offset, length)) {
      atMost += range.length;
      if (range.certain) atLeast += range.length;
    }
    return { atLeast, atMost };
  }
}
