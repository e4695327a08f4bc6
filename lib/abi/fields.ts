/**
 * The kinds of field that a kernel struct is made of. Each knows its offset and how to read and write itself; all of
 * them are little-endian. 64-bit fields are bigint, the others number. See codec.ts for the structs made of them.
 */
import { expectedMessage, rangeError, typeError } from '../arguments.ts';

/** One member of a struct. `T` is what it decodes to. */
export interface Field<T> {
  /** From the start of the struct, in bytes. */
  readonly offset: number;
  readonly size: number;
  /** The kernel's name (a designator such as `exception.nr`), where it is not the key in snake_case. */
  readonly cName: string | undefined;
  /** For a struct or an array of structs: its members, as an object of fields. */
  readonly members?: Fields | undefined;
  readonly isArray?: boolean;
  /** Reads the field of the struct that is `base` bytes into `view`. */
  get(view: DataView, base: number): T;
  /** Checks the value, then writes it. `path` and `key` name the field in errors: `regs` and `rip`. */
  set(view: DataView, base: number, value: unknown, path: string, key: string): void;
}

/** The members of a struct, by the names that they have here. */
export type Fields = { readonly [key: string]: Field<unknown> };

/** What an object of fields decodes to. */
export type DecodedFields<F extends Fields> = { -readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never };

/** What encode takes for a `T`: the same, all of it readonly. */
export type Encodable<T> = T extends bigint | number | boolean | Uint8Array
  ? T
  : T extends readonly (infer U)[]
    ? readonly Encodable<U>[]
    : { readonly [K in keyof T]: Encodable<T[K]> };

type NumberKind = 'Uint8' | 'Uint16' | 'Uint32' | 'Int16' | 'Int32';

function numberField(kind: NumberKind, size: number, signed: boolean) {
  const bits = size * 8;
  const min = signed ? -(2 ** (bits - 1)) : 0;
  const max = signed ? 2 ** (bits - 1) - 1 : 2 ** bits - 1;
  const what = `an integer from ${min} to ${max}`;
  // One closure for each kind of access, picked here and not on every call.
  const read = readers[kind];
  const write = writers[kind];
  return (offset: number, cName?: string): Field<number> => ({
    offset,
    size,
    cName,
    get: (view, base) => read(view, base + offset),
    set(view, base, value, path, key) {
      if (typeof value !== 'number') throw typeError(what, `${path}.${key}`, value);
      if (!(value >= min && value <= max) || !Number.isInteger(value)) throw rangeError(what, `${path}.${key}`, value);
      write(view, base + offset, value);
    },
  });
}

const readers: Record<NumberKind, (view: DataView, at: number) => number> = {
  Uint8: (view, at) => view.getUint8(at),
  Uint16: (view, at) => view.getUint16(at, true),
  Uint32: (view, at) => view.getUint32(at, true),
  Int16: (view, at) => view.getInt16(at, true),
  Int32: (view, at) => view.getInt32(at, true),
};

const writers: Record<NumberKind, (view: DataView, at: number, value: number) => void> = {
  Uint8: (view, at, value) => view.setUint8(at, value),
  Uint16: (view, at, value) => view.setUint16(at, value, true),
  Uint32: (view, at, value) => view.setUint32(at, value, true),
  Int16: (view, at, value) => view.setInt16(at, value, true),
  Int32: (view, at, value) => view.setInt32(at, value, true),
};

export const u8 = numberField('Uint8', 1, false);
export const u16 = numberField('Uint16', 2, false);
export const u32 = numberField('Uint32', 4, false);
export const s16 = numberField('Int16', 2, true);
export const s32 = numberField('Int32', 4, true);

const U64_MAX = 0xffff_ffff_ffff_ffffn;
const S64_MIN = -0x8000_0000_0000_0000n;
const S64_MAX = 0x7fff_ffff_ffff_ffffn;

function expectBigint(value: unknown, path: string, key: string): bigint {
  if (typeof value === 'bigint') return value;
  const help = typeof value === 'number' && Number.isSafeInteger(value) ? `; write ${value}n` : '';
  throw new TypeError(expectedMessage('a bigint', `${path}.${key}`, value) + help);
}

export function u64(offset: number, cName?: string): Field<bigint> {
  return {
    offset,
    size: 8,
    cName,
    get: (view, base) => view.getBigUint64(base + offset, true),
    set(view, base, value, path, key) {
      const big = expectBigint(value, path, key);
      if (big < 0n || big > U64_MAX) throw rangeError('an unsigned 64-bit integer', `${path}.${key}`, value);
      view.setBigUint64(base + offset, big, true);
    },
  };
}

export function s64(offset: number, cName?: string): Field<bigint> {
  return {
    offset,
    size: 8,
    cName,
    get: (view, base) => view.getBigInt64(base + offset, true),
    set(view, base, value, path, key) {
      const big = expectBigint(value, path, key);
      if (big < S64_MIN || big > S64_MAX) throw rangeError('a signed 64-bit integer', `${path}.${key}`, value);
      view.setBigInt64(base + offset, big, true);
    },
  };
}

/** A byte that holds 0 or 1, shown as a boolean. Any other value than 0 reads as true. */
export function bool8(offset: number, cName?: string): Field<boolean> {
  return {
    offset,
    size: 1,
    cName,
    get: (view, base) => view.getUint8(base + offset) !== 0,
    set(view, base, value, path, key) {
      if (typeof value !== 'boolean') throw typeError('a boolean', `${path}.${key}`, value);
      view.setUint8(base + offset, value ? 1 : 0);
    },
  };
}

/** Raw bytes of a fixed length, copied both ways. */
export function bytes(offset: number, size: number, cName?: string): Field<Uint8Array> {
  return {
    offset,
    size,
    cName,
    get: (view, base) => bytesOf(view, base + offset, size).slice(),
    set(view, base, value, path, key) {
      const what = `a Uint8Array of ${size} bytes`;
      if (!(value instanceof Uint8Array)) throw typeError(what, `${path}.${key}`, value);
      if (value.byteLength !== size) throw rangeError(what, `${path}.${key}`, value);
      bytesOf(view, base + offset, size).set(value);
    },
  };
}

/** `count` elements in a row, each as `element` (made with offset 0) says. */
export function array<T>(offset: number, element: Field<T>, count: number, cName?: string): Field<T[]> {
  const stride = element.size;
  return {
    offset,
    size: stride * count,
    cName,
    members: element.members,
    isArray: true,
    get(view, base) {
      const values: T[] = [];
      for (let index = 0; index < count; index++) values.push(element.get(view, base + offset + index * stride));
      return values;
    },
    set(view, base, value, path, key) {
      const what = `an array of ${count}`;
      if (!Array.isArray(value)) throw typeError(what, `${path}.${key}`, value);
      if (value.length !== count) throw rangeError(what, `${path}.${key}`, value);
      for (let index = 0; index < count; index++) {
        element.set(view, base + offset + index * stride, value[index], path, `${key}[${index}]`);
      }
    },
  };
}

function bytesOf(view: DataView, at: number, size: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + at, size);
}
