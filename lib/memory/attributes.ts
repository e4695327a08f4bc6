/** Reading which memory is private. The kernel offers no way, so the only writer keeps the book. */
import * as args from '../arguments.ts';
import type { Attribute } from './events.ts';
import type { IntervalMap } from './interval-map.ts';

/** A range of guest memory that is wholly private or wholly shared. */
export interface AttributeRange {
  readonly gpa: bigint;
  /** In bytes. */
  readonly size: number;
  readonly state: Attribute;
}

export class MemoryAttributes {
  readonly #map: IntervalMap<Attribute>;

  /** @internal */
  constructor(map: IntervalMap<Attribute>) {
    this.#map = map;
  }

  /** The state of the page that holds `gpa`. */
  at(gpa: bigint): Attribute {
    return this.#map.at(Math.floor(Number(args.gpa('gpa', gpa)) / args.PAGE_SIZE));
  }

  /** What a range consists of, in order. Default: the whole guest physical address space, 52 bits. */
  ranges(gpa: bigint = 0n, size: number = 2 ** 52): AttributeRange[] {
    const start = Number(args.pageAlignedGpa('gpa', gpa));
    const end = start + Number(args.pageAlignedGpaRange(gpa, size));
    return this.#map.intervals(start / args.PAGE_SIZE, end / args.PAGE_SIZE).map((interval) => ({
      gpa: BigInt(interval.start * args.PAGE_SIZE),
      size: (interval.end - interval.start) * args.PAGE_SIZE,
      state: interval.value,
    }));
  }
}
