/** Who lives where: the regions of a guest physical address space, in order. Pure; addresses are exact as numbers. */
import { expectedMessage } from '../arguments.ts';

export interface Placed {
  /** The gpa of the first byte, as a number: below 2^52, so exact. */
  readonly start: number;
  /** The gpa after the last byte. */
  readonly end: number;
  readonly slot: number;
}

/** A part of one region. */
export interface Segment<R> {
  readonly region: R;
  readonly start: number;
  readonly end: number;
}

export class Layout<R extends Placed> {
  readonly #regions: R[] = [];
  // Accesses mostly go where the last one went.
  #last: R | undefined;

  /** In the order of their addresses. */
  get regions(): readonly R[] {
    return this.#regions;
  }

  add(region: R): void {
    this.#regions.splice(this.#firstEndingAbove(region.start), 0, region);
  }

  remove(region: R): void {
    if (this.#regions[this.#firstEndingAbove(region.start)] === region) this.removeAt(region.start);
  }

  /** Takes away the region that begins at `start`. */
  removeAt(start: number): void {
    const index = this.#firstEndingAbove(start);
    const region = this.#regions[index];
    if (region === undefined || region.start !== start) return;
    this.#regions.splice(index, 1);
    if (this.#last === region) this.#last = undefined;
  }

  /** The region that holds an address. */
  find(address: number): R | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.start && address < last.end) return last;
    const region = this.#regions[this.#firstEndingAbove(address)];
    if (region === undefined || region.start > address) return undefined;
    this.#last = region;
    return region;
  }

  /** The first region that has a byte in common with [start, end). */
  overlapping(start: number, end: number): R | undefined {
    const region = this.#regions[this.#firstEndingAbove(start)];
    return region !== undefined && region.start < end ? region : undefined;
  }

  /** The first address of [start, end) that no region holds. */
  gap(start: number, end: number): number | undefined {
    const last = this.#last;
    if (last !== undefined && start >= last.start && end <= last.end) return undefined;
    for (let index = this.#firstEndingAbove(start), at = start; at < end; index++) {
      const region = this.#regions[index];
      if (region === undefined || region.start > at) return at;
      this.#last = region;
      at = region.end;
    }
    return undefined;
  }

  /** What of [start, end) lies in regions, region by region; gaps are left out. */
  segments(start: number, end: number): Segment<R>[] {
    const last = this.#last;
    if (last !== undefined && start >= last.start && end <= last.end) return [{ region: last, start, end }];
    const found: Segment<R>[] = [];
    for (let index = this.#firstEndingAbove(start); index < this.#regions.length; index++) {
      const region = this.#regions[index]!;
      if (region.start >= end) break;
      found.push({ region, start: Math.max(start, region.start), end: Math.min(end, region.end) });
    }
    return found;
  }

  /** The error for a range that leaves guest memory: where it does so, and what is there. */
  outside(name: string, gpa: bigint, start: number, end: number): RangeError {
    const gap = this.gap(start, end) ?? start;
    const where = gap === start ? 'nothing is there' : `it ends at ${hex(gap)}`;
    return new RangeError(
      `${expectedMessage(`a range of ${end - start} bytes inside guest memory`, name, gpa)}: ` +
        `${where}; guest memory is ${this.describe()}`,
    );
  }

  describe(): string {
    if (this.#regions.length === 0) return 'empty';
    const shown = this.#regions.slice(0, 8).map(({ start, end, slot }) => `${hex(start)}-${hex(end)} (slot ${slot})`);
    return shown.join(', ') + (this.#regions.length > 8 ? `, and ${this.#regions.length - 8} more` : '');
  }

  #firstEndingAbove(address: number): number {
    let low = 0;
    let high = this.#regions.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#regions[middle]!.end <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** `0x1000` */
export function hex(address: number | bigint): string {
  return `0x${address.toString(16)}`;
}
