/**
 * A value for every key of [0, limit), held as intervals. Pure.
 *
 * Keys are page numbers: below 2^52 bytes there are 2^40 pages, which a double counts exactly, and an array of doubles
 * takes eight bytes an entry where bigints would take forty.
 *
 * The starts of the intervals are kept in order, in blocks of bounded length with an index over them. A look-up is two
 * binary searches, so O(log n). An update moves at most a few blocks and a part of the index: a guest that converts
 * every other page of 64 GiB makes 16 million intervals, and one flat array would move all of them each time.
 */
export interface Interval<T> {
  /** The first key. */
  readonly start: number;
  /** The key after the last one. */
  readonly end: number;
  readonly value: T;
}

interface Block<T> {
  readonly keys: number[];
  readonly values: T[];
}

const BLOCK_LENGTH = 512;

export class IntervalMap<T> {
  readonly limit: number;
  readonly #blockLength: number;
  // Never empty: the first key of the first block is always 0. Neighbouring intervals always differ in value.
  readonly #blocks: Block<T>[];
  readonly #firsts: number[];

  /** @param blockLength - entries in a block, at least 4; smaller in tests, to have many blocks. */
  constructor(initial: T, limit: number, blockLength = BLOCK_LENGTH) {
    this.limit = limit;
    this.#blockLength = blockLength;
    this.#blocks = [{ keys: [0], values: [initial] }];
    this.#firsts = [0];
  }

  /** How many intervals there are. */
  get count(): number {
    let count = 0;
    for (const block of this.#blocks) count += block.keys.length;
    return count;
  }

  /** The value of all keys, where they have the same; costs nothing, unlike `every`. */
  get uniform(): T | undefined {
    const block = this.#blocks[0]!;
    return this.#blocks.length === 1 && block.keys.length === 1 ? block.values[0] : undefined;
  }

  at(key: number): T {
    const block = this.#blocks[lastAtOrBelow(this.#firsts, key)]!;
    return block.values[lastAtOrBelow(block.keys, key)]!;
  }

  /** The whole interval that holds the key. */
  intervalAt(key: number): Interval<T> {
    const b = lastAtOrBelow(this.#firsts, key);
    const { keys, values } = this.#blocks[b]!;
    const i = lastAtOrBelow(keys, key);
    return { start: keys[i]!, end: keys[i + 1] ?? this.#firsts[b + 1] ?? this.limit, value: values[i]! };
  }

  /** Whether all keys of [start, end) have this value. */
  every(start: number, end: number, value: T): boolean {
    const first = this.intervalAt(start);
    return first.value === value && first.end >= end;
  }

  /** What [start, end) consists of, in order, cut at its two ends. A copy: later updates do not change it. */
  intervals(start: number, end: number): Interval<T>[] {
    const found: Interval<T>[] = [];
    if (start >= end) return found;
    let b = lastAtOrBelow(this.#firsts, start);
    let i = lastAtOrBelow(this.#blocks[b]!.keys, start);
    for (let from = start; from < end;) {
      const { keys, values } = this.#blocks[b]!;
      const value = values[i]!;
      i++;
      if (i === keys.length) [b, i] = [b + 1, 0];
      const to = Math.min(this.#blocks[b]?.keys[i] ?? this.limit, end);
      found.push({ start: from, end: to, value });
      from = to;
    }
    return found;
  }

  /** How many keys of [start, end) have this value. */
  total(start: number, end: number, value: T): number {
    let total = 0;
    for (const interval of this.intervals(start, end)) {
      if (interval.value === value) total += interval.end - interval.start;
    }
    return total;
  }

  /** Gives all keys of [start, end) this value. */
  set(start: number, end: number, value: T): void {
    if (start >= end) return;
    const b = lastAtOrBelow(this.#firsts, start);
    const { keys, values } = this.#blocks[b]!;
    const i = lastAtOrBelow(keys, start);
    const old = values[i]!;
    if (old === value && (keys[i + 1] ?? this.#firsts[b + 1] ?? this.limit) >= end) return;
    const before = keys[i]! < start ? old : i > 0 ? values[i - 1] : start === 0 ? undefined : this.at(start - 1);
    const opens = start === 0 || before !== value;
    const after = end < this.limit ? this.at(end) : value;
    this.#replace(b, start, end, opens, value, after !== value, after);
  }

  /**
   * Puts at most two entries, (start, value) and (end, after), in the place of all whose key is in [start, end], the end
   * included.
   */
  #replace(b1: number, start: number, end: number, opens: boolean, value: T, closes: boolean, after: T): void {
    const b2 = lastAtOrBelow(this.#firsts, end);
    const head = this.#blocks[b1]!;
    const from = firstAtOrAbove(head.keys, start);
    const tail = this.#blocks[b2]!;
    const to = lastAtOrBelow(tail.keys, end) + 1;
    if (b1 === b2) {
      put(head.keys, from, to - from, opens, start, closes, end);
      put(head.values, from, to - from, opens, value, closes, after);
    } else {
      const [keys, values] = [tail.keys.slice(to), tail.values.slice(to)];
      put(head.keys, from, head.keys.length - from, opens, start, closes, end);
      put(head.values, from, head.values.length - from, opens, value, closes, after);
      head.keys.push(...keys);
      head.values.push(...values);
      this.#blocks.splice(b1 + 1, b2 - b1);
      this.#firsts.splice(b1 + 1, b2 - b1);
    }
    this.#settle(b1);
  }

  /** Restores the bounds of the block that was changed: not empty, not too long, not much shorter than it could be. */
  #settle(b: number): void {
    const block = this.#blocks[b]!;
    if (block.keys.length === 0) {
      this.#blocks.splice(b, 1);
      this.#firsts.splice(b, 1);
      return;
    }
    this.#firsts[b] = block.keys[0]!;
    if (block.keys.length > this.#blockLength) {
      const half = block.keys.length >> 1;
      const right = { keys: block.keys.splice(half), values: block.values.splice(half) };
      this.#blocks.splice(b + 1, 0, right);
      this.#firsts.splice(b + 1, 0, right.keys[0]!);
      return;
    }
    if (this.#blocks.length === 1) return;
    const left = b === this.#blocks.length - 1 ? b - 1 : b;
    const one = this.#blocks[left]!;
    const two = this.#blocks[left + 1]!;
    if (one.keys.length + two.keys.length > this.#blockLength >> 1) return;
    one.keys.push(...two.keys);
    one.values.push(...two.values);
    this.#blocks.splice(left + 1, 1);
    this.#firsts.splice(left + 1, 1);
  }
}

/** Replaces `count` items at `at` by none, one or both of the two. Without a spread, since every conversion does it. */
function put<T>(items: T[], at: number, count: number, hasOne: boolean, one: T, hasTwo: boolean, two: T): void {
  if (hasOne && hasTwo) {
    if (count === 2) [items[at], items[at + 1]] = [one, two];
    else items.splice(at, count, one, two);
  } else if (hasOne || hasTwo) {
    if (count === 1) items[at] = hasOne ? one : two;
    else items.splice(at, count, hasOne ? one : two);
  } else if (count > 0) {
    items.splice(at, count);
  }
}

/** The index of the last key that is not above `key`, or -1. */
function lastAtOrBelow(keys: readonly number[], key: number): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keys[middle]! <= key) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The index of the first key that is not below `key`, or the length. */
function firstAtOrAbove(keys: readonly number[], key: number): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keys[middle]! < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
