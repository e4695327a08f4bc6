import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import * as check from '../../lib/arguments.ts';

function failure(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    return `${(error as Error).name}: ${(error as Error).message}`;
  }
  return 'nothing';
}

describe('numbers', () => {
  test('pass', () => {
    expect(check.u8('n', 255)).toBe(255);
    expect(check.u16('n', 65535)).toBe(65535);
    expect(check.u32('n', 0xffff_ffff)).toBe(0xffff_ffff);
    expect(check.s32('n', -0x8000_0000)).toBe(-0x8000_0000);
    expect(check.uint('n', Number.MAX_SAFE_INTEGER)).toBe(Number.MAX_SAFE_INTEGER);
    expect(check.u64('n', 2n ** 64n - 1n)).toBe(2n ** 64n - 1n);
  });

  test.each([
    [
      () => check.u8('port', 256),
      'RangeError: Expected an integer from 0 to 255 for port but received 256 (type number)',
    ],
    [
      () => check.u32('slot', -1),
      'RangeError: Expected an integer from 0 to 4294967295 for slot but received -1 (type number)',
    ],
    [
      () => check.u32('slot', '1'),
      "TypeError: Expected an integer from 0 to 4294967295 for slot but received '1' (type string)",
    ],
    [
      () => check.u32('slot', 1n),
      'TypeError: Expected a number for slot but received 1n (type bigint); write 1 without the n',
    ],
    [() => check.uint('id', 1.5), 'RangeError: Expected an integer of 0 or more for id but received 1.5 (type number)'],
    [
      () => check.uint('id', Number.NaN),
      'RangeError: Expected an integer of 0 or more for id but received NaN (type number)',
    ],
    [
      () => check.uint('id', 9, { min: 1, max: 8 }),
      'RangeError: Expected an integer from 1 to 8 for id but received 9 (type number)',
    ],
    [() => check.u64('mask', 1), 'TypeError: Expected a bigint for mask but received 1 (type number); write 1n'],
    [() => check.u64('mask', 1.5), 'TypeError: Expected a bigint for mask but received 1.5 (type number)'],
    [
      () => check.u64('mask', -1n),
      'RangeError: Expected an unsigned 64-bit integer for mask but received -1n (type bigint)',
    ],
    [() => check.u64('mask', null), 'TypeError: Expected a bigint for mask but received null (type object)'],
  ])('are refused (%#)', (call, message) => expect(failure(call)).toBe(message));
});

describe('addresses and sizes', () => {
  test('pass', () => {
    expect(check.pageAlignedGpa('gpa', 2n ** 52n - 4096n)).toBe(2n ** 52n - 4096n);
    expect(check.pageAlignedSize('size', 4096)).toBe(4096);
    expect(check.pageAlignedBytes('size', 8192n)).toBe(8192n);
    expect(check.pageAlignedOffset('offset', 0)).toBe(0);
    expect(check.gpaRange(1n, 2)).toBe(2n);
    expect(check.gpaRange(0n, 2n ** 52n)).toBe(2n ** 52n);
    expect(check.pageAlignedGpaRange(4096n, 4096)).toBe(4096n);
  });

  test.each([
    [
      () => check.pageAlignedSize('size', 4097),
      'RangeError: Expected a multiple of 4096 for size but received 4097 (type number)',
    ],
    [
      () => check.pageAlignedSize('size', 0),
      'RangeError: Expected a size above 0 for size but received 0 (type number)',
    ],
    [
      () => check.pageAlignedSize('size', 4096n),
      'TypeError: Expected a number for size but received 4096n (type bigint); write 4096 without the n',
    ],
    [
      () => check.pageAlignedBytes('size', 1n),
      'RangeError: Expected a multiple of 4096 for size but received 1n (type bigint)',
    ],
    [
      () => check.pageAlignedBytes('size', 2n ** 63n),
      'RangeError: Expected a size above 0 and below 2^63 for size but received 9223372036854775808n (type bigint)',
    ],
    [
      () => check.pageAlignedOffset('offset', -4096),
      'RangeError: Expected an offset of 0 or more for offset but received -4096 (type number)',
    ],
    [
      () => check.pageAlignedGpa('gpa', 4096),
      'TypeError: Expected a bigint for gpa but received 4096 (type number); write 4096n',
    ],
    [
      () => check.pageAlignedGpa('gpa', 4097n),
      'RangeError: Expected a multiple of 4096 for gpa but received 4097n (type bigint)',
    ],
    [
      () => check.pageAlignedGpa('gpa', 2n ** 52n),
      'RangeError: Expected a guest physical address below 2^52 (no x86-64 processor has more than 52 physical ' +
        'address bits) for gpa but received 4503599627370496n (type bigint)',
    ],
    [
      () => check.gpa('gpa', -1n),
      'RangeError: Expected a guest physical address of 0 or more for gpa but received -1n (type bigint)',
    ],
    [
      () => check.gpaRange(2n ** 52n - 1n, 2),
      'RangeError: Expected at most 1 bytes from gpa 0xfffffffffffff to the end of the 52-bit guest physical ' +
        'address space for size but received 2 (type number)',
    ],
    [
      () => check.gpaRange(0n, 0),
      'RangeError: Expected an integer from 1 to 2^53 - 1 for size but received 0 (type number)',
    ],
    [() => check.gpaRange(0n, 0n), 'RangeError: Expected a size above 0 for size but received 0n (type bigint)'],
    [
      () => check.pageAlignedGpaRange(0n, 12),
      'RangeError: Expected a multiple of 4096 for size but received 12 (type number)',
    ],
  ])('are refused (%#)', (call, message) => expect(failure(call)).toBe(message));
});

describe('other values', () => {
  test('pass', () => {
    expect(check.boolean('flag', false)).toBe(false);
    expect(check.string('path', 'x')).toBe('x');
    expect(check.oneOf('type', 'snp', ['sev', 'snp'])).toBe('snp');
    const bytes = Buffer.alloc(8);
    expect(check.bytes('data', bytes, { length: 8 })).toBe(bytes);
    expect(check.bytes('data', bytes, { min: 4 })).toBe(bytes);
    const options = { slot: 1 };
    expect(check.options('options', options, ['slot'])).toBe(options);
    expect(check.options('options', undefined, [])).toEqual({});
    const bare = Object.create(null) as object;
    expect(check.options('options', bare, [])).toBe(bare);
    const elsewhere = runInNewContext('({ slot: 1 })') as { slot: number };
    expect(check.options('options', elsewhere, ['slot'])).toBe(elsewhere);
  });

  const slots = ['slot', 'gpa', 'size', 'guestMemfd'] as never[];
  test.each([
    [() => check.boolean('flag', 0), 'TypeError: Expected a boolean for flag but received 0 (type number)'],
    [() => check.string('path', 3), 'TypeError: Expected a string for path but received 3 (type number)'],
    [
      () => check.callback('listener', 3 as never),
      'TypeError: Expected a function for listener but received 3 (type number)',
    ],
    [
      () => check.oneOf('type', 'SNPP', ['sev', 'snp']),
      "RangeError: Expected one of 'sev', 'snp' for type but received 'SNPP' (type string); did you mean 'snp'?",
    ],
    [
      () => check.oneOf('type', 'other', ['sev', 'snp']),
      "RangeError: Expected one of 'sev', 'snp' for type but received 'other' (type string)",
    ],
    [() => check.oneOf('type', 4, ['sev']), "TypeError: Expected one of 'sev' for type but received 4 (type number)"],
    [
      () => check.bytes('data', new ArrayBuffer(8)),
      'TypeError: Expected a Uint8Array for data but received an instance of ArrayBuffer (type object)',
    ],
    [
      () => check.bytes('data', new Uint8Array(7), { length: 8 }),
      'RangeError: Expected a Uint8Array of 8 bytes for data but received Uint8Array of 7 bytes (type object)',
    ],
    [
      () => check.bytes('data', new Uint8Array(7), { min: 8 }),
      'RangeError: Expected a Uint8Array of at least 8 bytes for data but received Uint8Array of 7 bytes (type ' +
        'object)',
    ],
    [
      () => check.options('region', { guestMemFd: 1 }, slots),
      'TypeError: Expected no key guestMemFd in region; did you mean guestMemfd?',
    ],
    [
      () => check.options('region', { colour: 1 }, slots),
      'TypeError: Expected no key colour in region; it takes slot, gpa, size, guestMemfd',
    ],
    [() => check.options('region', { colour: 1 }, []), 'TypeError: Expected no key colour in region; it takes none'],
    [
      () => check.options('region', [] as never, slots),
      'TypeError: Expected a plain object for region but received an array of 0 (type object)',
    ],
    [
      () => check.options('region', null as never, slots),
      'TypeError: Expected a plain object for region but received null (type object)',
    ],
    [
      () => check.options('region', 3 as never, slots),
      'TypeError: Expected a plain object for region but received 3 (type number)',
    ],
    // Not even a mistake in it would be seen.
    [
      () => check.options('region', new Map([['slot', 1]]) as never, slots),
      'TypeError: Expected a plain object for region but received an instance of Map (type object)',
    ],
    [
      () => check.options('region', new Uint8Array(0) as never, slots),
      'TypeError: Expected a plain object for region but received Uint8Array of 0 bytes (type object)',
    ],
    [
      () => check.bytes('data', Object.create(Uint8Array.prototype)),
      'TypeError: Expected a Uint8Array for data but received an instance of Uint8Array (type object)',
    ],
    [
      () =>
        check.u32(
          'slot',
          new Proxy(
            {},
            {
              get() {
                throw new Error('mine');
              },
            },
          ),
        ),
      'TypeError: Expected an integer from 0 to 4294967295 for slot but received an object that cannot be looked at (type object)',
    ],
    [
      () => check.boolean('flag', () => 0),
      'TypeError: Expected a boolean for flag but received a function (type function)',
    ],
    [
      () => check.boolean('flag', Symbol('s')),
      'TypeError: Expected a boolean for flag but received Symbol(s) (type symbol)',
    ],
  ])('are refused (%#)', (call, message) => expect(failure(call)).toBe(message));
});
