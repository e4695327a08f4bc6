/**
 * The codec of kernel structs: a table of fields with their offsets becomes `decode` and `encode`. Pure, and without
 * any knowledge of KVM. The keys are the kernel's names in camelCase; every struct remembers the kernel's spelling, so
 * that a test can hold size and offsets against the kernel's headers.
 */
import { typeError, rangeError, unknownKey } from '../arguments.ts';
import type { DecodedFields, Encodable, Field, Fields } from './fields.ts';

/** Where a member of a struct is: offset and size in bytes, as the kernel's headers have it. */
export interface LayoutEntry {
  /** The member as C writes it in offsetof: `exception.nr`, `ranges[0].base`. */
  readonly member: string;
  readonly offset: number;
  readonly size: number;
}

/** A kernel struct: its size, its fields, and how to read and make its bytes. */
export interface Struct<F extends Fields> {
  /** The kernel's name, `kvm_regs`. */
  readonly cName: string;
  /** In bytes. */
  readonly size: number;
  readonly fields: F;
  /**
   * Reads the struct at `offset` of `source` (default 0), which must hold all of it. Nothing in the result refers to
   * `source`.
   */
  decode(source: Uint8Array | DataView, offset?: number): DecodedFields<F>;
  /**
   * Makes the struct's bytes; what the table does not name (padding, reserved) is zero. With `into`, writes them there
   * at `offset` (default 0), and only after every field has passed its check.
   * @returns the `size` bytes, as a view of `into` where that is given.
   * @throws TypeError for a missing field, an unknown key or a wrong type, naming it (`regs.rip`); RangeError for a
   * value that does not fit the field.
   */
  encode(value: Encodable<DecodedFields<F>>, into?: Uint8Array, offset?: number): Uint8Array;
  /** Writes only the fields given into an existing struct at `offset` (default 0) of `target`, all of them or none. */
  update(target: Uint8Array, changes: Partial<Encodable<DecodedFields<F>>>, offset?: number): void;
  /** Every named member with its place, nested structs spelled out. */
  layout(): LayoutEntry[];
}

/** What a struct decodes to: `type Regs = Decoded<typeof kvmRegs>`. */
export type Decoded<S> = S extends Struct<infer F> ? DecodedFields<F> : never;

/** What a struct's encode takes. */
export type Input<S> = Encodable<Decoded<S>>;

/**
 * Makes the codec of a struct of fixed size from the table of its fields.
 *
 * @param cName the kernel's name of the struct.
 * @param size in bytes.
 * @param label how errors call it; the kernel's name without `kvm_` by default.
 */
export function struct<F extends Fields>(
  cName: string,
  size: number,
  fields: F,
  label: string = cName.replace(/^kvm_/, ''),
): Struct<F> {
  const { read, write, update } = accessors(fields);
  return {
    cName,
    size,
    fields,
    decode(source, offset = 0) {
      return read(viewOf(source, offset, size, label), 0);
    },
    encode(value, into, offset = 0) {
      const made = new Uint8Array(size);
      write(new DataView(made.buffer), 0, value, label);
      if (into === undefined) return made;
      const target = partOf(into, offset, size, label);
      target.set(made);
      return target;
    },
    update(target, changes, offset = 0) {
      const part = partOf(target, offset, size, label);
      const made = part.slice();
      update(new DataView(made.buffer), 0, changes, label);
      part.set(made);
    },
    layout: () => layoutOf(fields, '', 0),
  };
}

/** A struct inside a struct. */
export function nested<F extends Fields>(offset: number, inner: Struct<F>, cName?: string): Field<DecodedFields<F>> {
  return membersField(offset, inner.size, inner.fields, cName);
}

/** Members that the kernel's struct groups in an unnamed struct type: offsets count from the start of the group. */
export function group<F extends Fields>(
  offset: number,
  size: number,
  fields: F,
  cName?: string,
): Field<DecodedFields<F>> {
  return membersField(offset, size, fields, cName);
}

function membersField<F extends Fields>(
  offset: number,
  size: number,
  members: F,
  cName: string | undefined,
): Field<DecodedFields<F>> {
  const { read, write } = accessors(members);
  return {
    offset,
    size,
    cName,
    members,
    get: (view, base) => read(view, base + offset),
    set: (view, base, value, path, key) => write(view, base + offset, value, `${path}.${key}`),
  };
}

function accessors<F extends Fields>(fields: F) {
  // A flat list: walking an object's keys on each call would cost more than the reads themselves.
  const keys = Object.keys(fields);
  const list = keys.map((key) => fields[key]!);
  const count = keys.length;

  function read(view: DataView, base: number): DecodedFields<F> {
    const out: Record<string, unknown> = {};
    for (let index = 0; index < count; index++) out[keys[index]!] = list[index]!.get(view, base);
    return out as DecodedFields<F>;
  }

  function write(view: DataView, base: number, value: unknown, path: string): void {
    const object = objectOf(value, path);
    for (let index = 0; index < count; index++) list[index]!.set(view, base, object[keys[index]!], path, keys[index]!);
    if (Object.keys(object).length !== count) refuseUnknown(object, path);
  }

  function update(view: DataView, base: number, value: unknown, path: string): void {
    const object = objectOf(value, path);
    refuseUnknown(object, path);
    for (const key of Object.keys(object)) fields[key]!.set(view, base, object[key], path, key);
  }

  function refuseUnknown(object: object, path: string): void {
    for (const key of Object.keys(object)) if (!keys.includes(key)) throw unknownKey(path, key, keys);
  }

  return { read, write, update };
}

function objectOf(value: unknown, path: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null) throw typeError('an object', path, value);
  return value as Record<string, unknown>;
}

function viewOf(source: Uint8Array | DataView, offset: number, size: number, label: string): DataView {
  if (!ArrayBuffer.isView(source)) throw typeError('a Uint8Array or DataView', label, source);
  checkRoom(source, offset, size, label);
  return new DataView(source.buffer, source.byteOffset + offset, size);
}

function partOf(target: Uint8Array, offset: number, size: number, label: string): Uint8Array {
  if (!(target instanceof Uint8Array)) throw typeError('a Uint8Array', label, target);
  checkRoom(target, offset, size, label);
  return new Uint8Array(target.buffer, target.byteOffset + offset, size);
}

function checkRoom(source: ArrayBufferView, offset: number, size: number, label: string): void {
  if (!Number.isInteger(offset) || offset < 0) throw rangeError('an integer of 0 or more', `${label} offset`, offset);
  if (offset + size > source.byteLength) {
    const where = offset === 0 ? '' : ` from offset ${offset}`;
    throw rangeError(`at least ${size} bytes${where}`, label, source);
  }
}

function layoutOf(fields: Fields, prefix: string, base: number): LayoutEntry[] {
  const entries: LayoutEntry[] = [];
  for (const [key, field] of Object.entries(fields)) {
    const member = prefix + (field.cName ?? snakeCase(key));
    const offset = base + field.offset;
    entries.push({ member, offset, size: field.size });
    if (field.members === undefined) continue;
    // The first element stands for all: its members and the whole array's size fix the others.
    entries.push(...layoutOf(field.members, field.isArray === true ? `${member}[0].` : `${member}.`, offset));
  }
  return entries;
}

function snakeCase(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
