import { describe, expect, it } from 'vitest';
import { IntervalMap } from '../../lib/memory/interval-map.ts';

/** A small generator with a seed, so that a failure can be repeated (mulberry32). */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** What the map must agree with: one array element per key. */
function naiveIntervals<T>(model: readonly T[], start: number, end: number) {
  const found: { start: number; end: number; value: T }[] = [];
  for (let key = start; key < end; key++) {
    const last = found.at(-1);
    if (last !== undefined && last.value === model[key]) last.end = key + 1;
    else found.push({ start: key, end: key + 1, value: model[key]! });
  }
  return found;
}

describe('the interval map', () => {
  it('starts with one interval over everything', () => {
    const map = new IntervalMap('shared', 2 ** 40);
    expect(map.count).toBe(1);
    expect(map.uniform).toBe('shared');
    expect(map.at(2 ** 40 - 1)).toBe('shared');
    expect(map.intervalAt(5)).toEqual({ start: 0, end: 2 ** 40, value: 'shared' });
    expect(map.intervals(7, 7)).toEqual([]);
  });

  it('joins what touches and has the same value', () => {
    const map = new IntervalMap(0, 100);
    map.set(10, 20, 1);
    map.set(30, 40, 1);
    expect(map.count).toBe(5);
    map.set(20, 30, 1);
    expect(map.intervals(0, 100)).toEqual([
      { start: 0, end: 10, value: 0 },
      { start: 10, end: 40, value: 1 },
      { start: 40, end: 100, value: 0 },
    ]);
    map.set(0, 100, 0);
    expect(map.count).toBe(1);
    expect(map.uniform).toBe(0);
  });

  it('keeps the ends of an interval that is split', () => {
    const map = new IntervalMap('a', 10);
    map.set(4, 5, 'b');
    expect([3, 4, 5].map((key) => map.at(key))).toEqual(['a', 'b', 'a']);
    expect(map.every(5, 10, 'a')).toBe(true);
    expect(map.every(4, 10, 'a')).toBe(false);
    expect(map.total(0, 10, 'a')).toBe(9);
  });

  it('does nothing for an empty range', () => {
    const map = new IntervalMap('a', 10);
    map.set(4, 4, 'b');
    expect(map.count).toBe(1);
  });

  for (const blockLength of [4, 5, 16, 512]) {
    it(`agrees with an array of keys after each of 2000 random updates, in blocks of ${blockLength}`, () => {
      const next = random(blockLength);
      const keys = 300;
      const map = new IntervalMap(0, keys, blockLength);
      const model = new Array<number>(keys).fill(0);
      for (let step = 0; step < 2000; step++) {
        const start = next(keys);
        // Mostly short ranges, so that many intervals form; sometimes long ones, so that many go at once.
        const end = Math.min(keys, start + 1 + next(next(20) === 0 ? keys : 6));
        const value = next(3);
        map.set(start, end, value);
        model.fill(value, start, end);
        const [a, b] = [next(keys), next(keys + 1)];
        expect(map.intervals(0, keys)).toEqual(naiveIntervals(model, 0, keys));
        expect(map.intervals(a, b)).toEqual(naiveIntervals(model, a, b));
        expect(map.count).toBe(naiveIntervals(model, 0, keys).length);
        expect(map.at(a)).toBe(model[a]);
        const whole = naiveIntervals(model, 0, keys).find((interval) => interval.start <= a && a < interval.end);
        expect(map.intervalAt(a)).toEqual(whole);
        if (a < b) {
          expect(map.every(a, b, value)).toBe(model.slice(a, b).every((each) => each === value));
          expect(map.total(a, b, value)).toBe(model.slice(a, b).filter((each) => each === value).length);
        }
      }
    });
  }

  // With a cost that grew with the number of intervals this would not end in the time a test has.
  it('takes 200,000 intervals', () => {
    const map = new IntervalMap(0, 2 ** 40);
    for (let page = 0; page < 200_000; page++) map.set(page * 2, page * 2 + 1, 1);
    expect(map.count).toBe(400_000);
    for (let page = 199_999; page >= 0; page -= 7) map.set(page * 2, page * 2 + 1, 0);
    map.set(0, 2 ** 40, 0);
    expect(map.count).toBe(1);
  });
});
