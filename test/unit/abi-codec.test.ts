import { describe, expect, test } from 'vitest';
import * as abi from '../../lib/abi/index.ts';
import type { Fields, Struct } from '../../lib/abi/index.ts';
import { nested, struct } from '../../lib/abi/codec.ts';
import { array, bool8, bytes, s16, s32, s64, u16, u32, u64, u8 } from '../../lib/abi/fields.ts';
import { structs } from '../abi/c-layout.ts';

const inner = struct('kvm_inner', 4, { low: u16(0), high: u16(2) });
const sample = struct('kvm_sample', 64, {
  small: u8(0),
  flag: bool8(1),
  half: s16(2),
  word: u32(4),
  signedWord: s32(8),
  wide: u64(16),
  signedWide: s64(24),
  raw: bytes(32, 3),
  pair: nested(36, inner),
  pairs: array(40, nested(0, inner), 2),
  counts: array(48, u8(0), 4),
});
const value = {
  small: 255,
  flag: true,
  half: -2,
  word: 0xffff_ffff,
  signedWord: -1,
  wide: 2n ** 64n - 1n,
  signedWide: -(2n ** 63n),
  raw: new Uint8Array([1, 2, 3]),
  pair: { low: 1, high: 2 },
  pairs: [
    { low: 3, high: 4 },
    { low: 5, high: 6 },
  ],
  counts: [9, 8, 7, 6],
};

describe('a struct', () => {
  test('encodes little-endian, with zeros where nothing is named', () => {
    expect(Buffer.from(sample.encode(value)).toString('hex')).toBe(
      'ff01feffffffffffffffffff00000000' +
        'ffffffffffffffff0000000000000080' +
        '01020300' +
        '01000200' +
        '03000400' +
        '05000600' +
        '09080706' +
        '00'.repeat(12),
    );
  });

  test('decodes what it encoded, at any offset of a view into a larger buffer', () => {
    const large = new Uint8Array(200).fill(0xaa);
    const target = sample.encode(value, large.subarray(5), 7);
    expect(target.byteOffset).toBe(12);
    expect(sample.decode(large, 12)).toEqual(value);
    expect(sample.decode(new DataView(large.buffer, 10), 2)).toEqual(value);
    expect([large[11], large[76]]).toEqual([0xaa, 0xaa]);
  });

  test('decodes to copies', () => {
    const source = sample.encode(value);
    const decoded = sample.decode(source);
    source.fill(0);
    expect(decoded).toEqual(value);
  });

  test('updates some fields and leaves the rest', () => {
    const target = new Uint8Array(64).fill(0xaa);
    sample.update(target, { word: 1, pair: { low: 0, high: 0 } });
    expect(sample.decode(target)).toMatchObject({
      word: 1,
      pair: { low: 0, high: 0 },
      small: 0xaa,
      counts: [170, 170, 170, 170],
    });
    expect(() => sample.update(target, { word: 2, small: 256 })).toThrow(RangeError);
    expect(sample.decode(target).word).toBe(1);
    expect(() => sample.update(target, { wordd: 2 } as never)).toThrow(
      'Expected no key wordd in sample; did you mean word?',
    );
  });

  test('leaves the target alone when a field is refused', () => {
    const target = new Uint8Array(64).fill(0xaa);
    expect(() => sample.encode({ ...value, counts: [1, 2, 3, 256] }, target)).toThrow(RangeError);
    expect(target.every((byte) => byte === 0xaa)).toBe(true);
  });

  test.each([
    [{ wide: undefined }, TypeError, 'Expected a bigint for sample.wide but received undefined (type undefined)'],
    [{ wide: 4096 }, TypeError, 'Expected a bigint for sample.wide but received 4096 (type number); write 4096n'],
    [{ wide: -1n }, RangeError, 'Expected an unsigned 64-bit integer for sample.wide but received -1n (type bigint)'],
    [{ wide: 2n ** 64n }, RangeError, 'Expected an unsigned 64-bit integer for sample.wide'],
    [{ signedWide: 2n ** 63n }, RangeError, 'Expected a signed 64-bit integer for sample.signedWide'],
    [{ small: 256 }, RangeError, 'Expected an integer from 0 to 255 for sample.small but received 256 (type number)'],
    [{ small: 1n }, TypeError, 'Expected an integer from 0 to 255 for sample.small but received 1n (type bigint)'],
    [{ small: 0.5 }, RangeError, 'sample.small'],
    [{ small: Number.NaN }, RangeError, 'sample.small'],
    [{ half: 0x8000 }, RangeError, 'Expected an integer from -32768 to 32767 for sample.half'],
    [{ flag: 1 }, TypeError, 'Expected a boolean for sample.flag but received 1 (type number)'],
    [{ raw: new Uint8Array(4) }, RangeError, 'Expected a Uint8Array of 3 bytes for sample.raw'],
    [
      { raw: [1, 2, 3] },
      TypeError,
      'Expected a Uint8Array of 3 bytes for sample.raw but received an array of 3 (type object)',
    ],
    [{ pair: { low: 1 } }, TypeError, 'for sample.pair.high but received undefined'],
    [{ pair: null }, TypeError, 'Expected an object for sample.pair but received null (type object)'],
    [
      {
        pairs: [
          { low: 1, high: 2 },
          { low: 1, high: 65536 },
        ],
      },
      RangeError,
      'for sample.pairs[1].high but received 65536',
    ],
    [
      { counts: [1, 2, 3] },
      RangeError,
      'Expected an array of 4 for sample.counts but received an array of 3 (type object)',
    ],
    [{ counts: [1, 2, 3, -1] }, RangeError, 'for sample.counts[3] but received -1'],
    [{ smal: 1 }, TypeError, 'Expected no key smal in sample; did you mean small?'],
  ])('refuses %o', (change, kind, message) => {
    const encode = () => sample.encode({ ...value, ...change } as never);
    expect(encode).toThrow(kind);
    expect(encode).toThrow(message);
  });

  test('refuses a source or target that is too short', () => {
    expect(() => sample.decode(new Uint8Array(63))).toThrow(
      'Expected at least 64 bytes for sample but received Uint8Array of 63 bytes (type object)',
    );
    expect(() => sample.decode(new Uint8Array(100), 37)).toThrow(
      'Expected at least 64 bytes from offset 37 for sample',
    );
    expect(() => sample.decode(new Uint8Array(100), -1)).toThrow('Expected an integer of 0 or more for sample offset');
    expect(() => sample.encode(value, new Uint8Array(10))).toThrow(RangeError);
    expect(() => sample.decode('' as never)).toThrow(TypeError);
  });
});

describe('a list', () => {
  const entries = [
    { index: 0x10, data: 1n },
    { index: 0xc000_0080, data: 2n ** 64n - 1n },
  ];

  test('carries its count and its entries', () => {
    const encoded = abi.kvmMsrs.encode(entries);
    expect(encoded.byteLength).toBe(8 + 2 * 16);
    expect(new DataView(encoded.buffer).getUint32(0, true)).toBe(2);
    expect(abi.kvmMsrs.decode(encoded)).toEqual(entries);
    expect(abi.kvmMsrs.decode(encoded, 1)).toEqual(entries.slice(0, 1));
  });

  test('allocates room for what the kernel will write', () => {
    const room = abi.kvmCpuid2.allocate(256);
    expect(room.byteLength).toBe(8 + 256 * 40);
    expect(abi.kvmCpuid2.decode(room)).toHaveLength(256);
  });

  test('names the entry that it refuses', () => {
    expect(() => abi.kvmMsrs.encode([...entries, { index: -1, data: 0n }])).toThrow(/msr_entry\.index .* \(entry 2\)$/);
    expect(() => abi.kvmMsrs.encode({} as never)).toThrow(TypeError);
  });

  test('does not read past its bytes', () => {
    const short = abi.kvmMsrs.encode(entries).subarray(0, 39);
    expect(() => abi.kvmMsrs.decode(short)).toThrow(RangeError);
    expect(() => abi.kvmMsrs.decode(new Uint8Array(4))).toThrow(RangeError);
  });
});

// A few bytes of every value, none of them the same as its neighbour's.
function pattern(size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, index) => (index * 37 + 11) & 0xff);
}

describe.each(structs())('%s', (_name, table: Struct<Fields>) => {
  test('encodes what it decodes, and zeros elsewhere', () => {
    const source = pattern(table.size);
    const decoded = table.decode(source);
    const encoded = table.encode(decoded as never);
    expect(encoded.byteLength).toBe(table.size);
    expect(table.decode(encoded)).toEqual(decoded);
    const named = new Set<number>();
    for (const { offset, size } of table.layout()) for (let at = offset; at < offset + size; at++) named.add(at);
    expect([...encoded.keys()].filter((at) => !named.has(at) && encoded[at] !== 0)).toEqual([]);
  });

  test('has fields inside its size that do not overlap', () => {
    let end = 0;
    for (const field of Object.values(table.fields).toSorted((a, b) => a.offset - b.offset)) {
      expect(field.offset).toBeGreaterThanOrEqual(end);
      end = field.offset + field.size;
    }
    expect(end).toBeLessThanOrEqual(table.size);
  });
});
