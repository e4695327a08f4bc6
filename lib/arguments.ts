/**
 * Checks of arguments, all with one sentence: `Expected X for NAME but received VALUE (type T)`. A wrong type is a
 * TypeError, a value outside its range a RangeError. Each check returns its value, typed, and costs a comparison or two
 * when it passes.
 */

import { types } from 'node:util';

export const PAGE_SIZE = 4096;
const PAGE_MASK = 4095n;
const U64_MAX = 0xffff_ffff_ffff_ffffn;
/** No x86-64 processor has more physical address bits than 52. */
const GPA_LIMIT = 1n << 52n;

/** `4096 (type number)`, `'abc' (type string)`, `null (type object)`, ... */
export function describe(value: unknown): string {
  return `${show(value)} (type ${typeof value})`;
}

export function expectedMessage(what: string, name: string, value: unknown): string {
  return `Expected ${what} for ${name} but received ${describe(value)}`;
}

export function typeError(what: string, name: string, value: unknown): TypeError {
  return new TypeError(expectedMessage(what, name, value));
}

export function rangeError(what: string, name: string, value: unknown): RangeError {
  return new RangeError(expectedMessage(what, name, value));
}

/** An integer between `min` and `max`, both included. The default range is that of a safe non-negative integer. */
export function uint(
  name: string,
  value: unknown,
  { min = 0, max = Number.MAX_SAFE_INTEGER }: { min?: number; max?: number } = {},
): number {
  return integer(name, value, min, max);
}

export function u8(name: string, value: unknown): number {
  return integer(name, value, 0, 0xff);
}

export function u16(name: string, value: unknown): number {
  return integer(name, value, 0, 0xffff);
}

export function u32(name: string, value: unknown): number {
  return integer(name, value, 0, 0xffff_ffff);
}

export function s32(name: string, value: unknown): number {
  return integer(name, value, -0x8000_0000, 0x7fff_ffff);
}

/** An unsigned 64-bit bigint. */
export function u64(name: string, value: unknown): bigint {
  if (typeof value !== 'bigint') throw notBigint(name, value);
  if (value < 0n || value > U64_MAX) throw rangeError('an unsigned 64-bit integer', name, value);
  return value;
}

/** A guest physical address: a bigint below 2^52. */
export function gpa(name: string, value: unknown): bigint {
  if (typeof value !== 'bigint') throw notBigint(name, value);
  if (value < 0n) throw rangeError('a guest physical address of 0 or more', name, value);
  if (value >= GPA_LIMIT) throw rangeError(ABOVE_GPA_LIMIT, name, value);
  return value;
}

/** A guest physical address that is a multiple of 4096. */
export function pageAlignedGpa(name: string, value: unknown): bigint {
  if (typeof value === 'bigint') {
    const address = Number(value);
    if (address >= 0 && address < 2 ** 52 && Number.isInteger(address / PAGE_SIZE)) return value;
  }
  const address = gpa(name, value);
  if ((address & PAGE_MASK) !== 0n) throw rangeError('a multiple of 4096', name, value);
  return address;
}

/** A size in bytes: a safe integer above 0 that is a multiple of 4096. */
export function pageAlignedSize(name: string, value: unknown): number {
  if (typeof value !== 'number') throw notNumber('a multiple of 4096', name, value);
  if (!Number.isSafeInteger(value) || value % PAGE_SIZE !== 0) throw rangeError('a multiple of 4096', name, value);
  if (value <= 0) throw rangeError('a size above 0', name, value);
  return value;
}

/** A size in bytes as pageAlignedSize takes it, or the same as a bigint; the result is a bigint. */
export function pageAlignedBytes(name: string, value: unknown): bigint {
  if (typeof value !== 'bigint') return BigInt(pageAlignedSize(name, value));
  if ((value & PAGE_MASK) !== 0n) throw rangeError('a multiple of 4096', name, value);
  if (value <= 0n || value > 0x7fff_ffff_ffff_f000n) throw rangeError('a size above 0 and below 2^63', name, value);
  return value;
}

/** An offset in bytes into a file or mapping: a safe integer of 0 or more that is a multiple of 4096. */
export function pageAlignedOffset(name: string, value: unknown): number {
  if (typeof value !== 'number') throw notNumber('a multiple of 4096', name, value);
  if (!Number.isSafeInteger(value) || value % PAGE_SIZE !== 0) throw rangeError('a multiple of 4096', name, value);
  if (value < 0) throw rangeError('an offset of 0 or more', name, value);
  return value;
}

/**
 * A range of guest physical addresses that ends at or below 2^52. Alignment is not asked for.
 * @returns the size as a bigint.
 */
export function gpaRange(address: unknown, size: unknown, gpaName = 'gpa', sizeName = 'size'): bigint {
  const start = gpa(gpaName, address);
  const length = typeof size === 'bigint' ? size : BigInt(uint(sizeName, size, { min: 1 }));
  if (length <= 0n) throw rangeError('a size above 0', sizeName, size);
  if (start + length > GPA_LIMIT) {
    throw rangeError(
      `at most ${GPA_LIMIT - start} bytes from ${gpaName} 0x${start.toString(16)} to the end of the ` +
        `52-bit guest physical address space`,
      sizeName,
      size,
    );
  }
  return length;
}

/** The same with both ends on a page border, as memslots and memory attributes need it. */
export function pageAlignedGpaRange(address: unknown, size: unknown, gpaName = 'gpa', sizeName = 'size'): bigint {
  // Almost always it is right, and this says so without a bigint but the result: all below 2^52 is exact as a number.
  if (typeof address === 'bigint' && typeof size === 'number') {
    const start = Number(address);
    if (
      start >= 0 &&
      size >= PAGE_SIZE &&
      start + size <= 2 ** 52 &&
      Number.isInteger(start / PAGE_SIZE) &&
      Number.isInteger(size / PAGE_SIZE)
    ) {
      return BigInt(size);
    }
  }
  pageAlignedGpa(gpaName, address);
  pageAlignedBytes(sizeName, size);
  return gpaRange(address, size, gpaName, sizeName);
}

export function boolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw typeError('a boolean', name, value);
  return value;
}

export function string(name: string, value: unknown): string {
  if (typeof value !== 'string') throw typeError('a string', name, value);
  return value;
}

export function callback<F extends (...args: never[]) => unknown>(name: string, value: F): F {
  if (typeof value !== 'function') throw typeError('a function', name, value);
  return value;
}

/** One of a few words. A string that is none of them is a RangeError. */
export function oneOf<const T extends string>(name: string, value: unknown, allowed: readonly T[]): T {
  if ((allowed as readonly unknown[]).includes(value)) return value as T;
  const what = `one of ${allowed.map((word) => `'${word}'`).join(', ')}`;
  if (typeof value !== 'string') throw typeError(what, name, value);
  const near = nearest(value, allowed);
  throw new RangeError(expectedMessage(what, name, value) + (near === undefined ? '' : `; did you mean '${near}'?`));
}

/** A Uint8Array (or Buffer), of exactly `length` bytes, or of `min` and more, where asked. */
export function bytes(
  name: string,
  value: unknown,
  { length, min }: { length?: number; min?: number } = {},
): Uint8Array {
  const what =
    length !== undefined
      ? `a Uint8Array of ${length} bytes`
      : min !== undefined
        ? `a Uint8Array of at least ${min} bytes`
        : 'a Uint8Array';
  // Not instanceof: what only inherits from Uint8Array has no bytes.
  if (!types.isUint8Array(value)) throw typeError(what, name, value);
  if ((length !== undefined && value.byteLength !== length) || (min !== undefined && value.byteLength < min)) {
    throw rangeError(what, name, value);
  }
  // What is left of a view whose memory was closed or handed over: nothing could come in or out by it.
  if (value.byteLength === 0 && isDetached(value)) throw typeError('a Uint8Array that is not detached', name, value);
  return value;
}

function isDetached({ buffer }: Uint8Array): boolean {
  try {
    return new Uint8Array(buffer).length < 0;
  } catch {
    return true;
  }
}

/**
 * A plain object (or undefined, for none) with no other keys than those allowed: a misspelt option is an error and not
 * a default.
 */
export function options<T extends object>(
  name: string,
  value: T | undefined,
  allowedKeys: readonly (keyof T & string)[],
): Partial<T> {
  if (value === undefined) return {};
  if (!isPlain(value)) throw typeError('a plain object', name, value);
  // Not Object.keys: this runs for every call with options, and for-in allocates nothing. What it finds besides is what
  // somebody has put on Object.prototype.
  for (const key in value) {
    if (!(allowedKeys as readonly string[]).includes(key) && Object.hasOwn(value, key)) {
      throw unknownKey(name, key, allowedKeys);
    }
  }
  return value;
}

/** Whether its keys are all that there is: a Map, a handle or a typed array given as options would be taken for none. */
function isPlain(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  // The second is Object.prototype of whatever realm.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** The TypeError for a key that an object may not have, with the nearest allowed one. */
export function unknownKey(name: string, key: string, allowedKeys: readonly string[]): TypeError {
  const near = nearest(key, allowedKeys);
  const help = near === undefined ? `it takes ${allowedKeys.join(', ') || 'none'}` : `did you mean ${near}?`;
  return new TypeError(`Expected no key ${key} in ${name}; ${help}`);
}

const ABOVE_GPA_LIMIT =
  'a guest physical address below 2^52 (no x86-64 processor has more than 52 physical address bits)';

function integer(name: string, value: unknown, min: number, max: number): number {
  if (typeof value === 'number' && value >= min && value <= max && Number.isInteger(value)) return value;
  const what =
    max === Number.MAX_SAFE_INTEGER && min === 0
      ? 'an integer of 0 or more'
      : `an integer from ${min} to ${max === Number.MAX_SAFE_INTEGER ? '2^53 - 1' : max}`;
  if (typeof value !== 'number') throw notNumber(what, name, value);
  throw rangeError(what, name, value);
}

function notBigint(name: string, value: unknown): TypeError {
  const help = typeof value === 'number' && Number.isSafeInteger(value) ? `; write ${value}n` : '';
  return new TypeError(expectedMessage('a bigint', name, value) + help);
}

function notNumber(what: string, name: string, value: unknown): TypeError {
  const help = typeof value === 'bigint' ? `; write ${value} without the n` : '';
  return new TypeError(expectedMessage(typeof value === 'bigint' ? 'a number' : what, name, value) + help);
}

function show(value: unknown): string {
  try {
    return shown(value);
  } catch {
    return 'an object that cannot be looked at'; // a proxy, a getter that throws
  }
}

function shown(value: unknown): string {
  if (typeof value === 'string') return value.length > 60 ? `'${value.slice(0, 57)}...'` : `'${value}'`;
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'function') return value.name === '' ? 'a function' : `function ${value.name}`;
  if (ArrayBuffer.isView(value)) return `${value.constructor.name} of ${value.byteLength} bytes`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value !== 'object' || value === null) return Object.is(value, -0) ? '-0' : String(value);
  const kind = (value as { constructor?: { name?: unknown } }).constructor?.name;
  return typeof kind === 'string' && kind !== '' && kind !== 'Object' ? `an instance of ${kind}` : 'an object';
}

/** The allowed word within two edits (one, for short words), ignoring case. */
function nearest(word: string, allowed: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = word.length <= 4 ? 2 : 3;
  for (const candidate of allowed) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
