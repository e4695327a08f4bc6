/**
 * Kernel structs that end in a flexible array: a count, then that many entries (kvm_msrs, kvm_cpuid2, kvm_irq_routing).
 */
import { rangeError, typeError } from '../arguments.ts';
import type { Decoded, Input, Struct } from './codec.ts';
import type { Fields } from './fields.ts';

/** A kernel struct that ends in a flexible array: a header with a count, and that many entries. */
export interface List<F extends Fields> {
  readonly cName: string;
  /** The kernel's name of the count, a u32 at offset 0. */
  readonly countName: string;
  /** The kernel's name of the flexible array. */
  readonly entriesName: string;
  readonly headerSize: number;
  readonly entry: Struct<F>;
  /** The bytes for `count` entries, all zero but the count: what a GET ioctl takes. */
  allocate(count: number): Uint8Array;
  /** The header with the count, and the entries behind it. */
  encode(entries: readonly Input<Struct<F>>[]): Uint8Array;
  /** As many entries as the count says, or `count` where that is given. */
  decode(source: Uint8Array, count?: number): Decoded<Struct<F>>[];
}

/** Makes the codec of a struct that ends in a flexible array. `headerSize` is in bytes. */
export function list<F extends Fields>(
  cName: string,
  countName: string,
  entriesName: string,
  headerSize: number,
  entry: Struct<F>,
): List<F> {
  const label = cName.replace(/^kvm_/, '');

  function allocate(count: number): Uint8Array {
    const made = new Uint8Array(headerSize + count * entry.size);
    new DataView(made.buffer).setUint32(0, count, true);
    return made;
  }

  return {
    cName,
    countName,
    entriesName,
    headerSize,
    entry,
    allocate,
    encode(entries) {
      if (!Array.isArray(entries)) throw typeError('an array', label, entries);
      const made = allocate(entries.length);
      for (let index = 0; index < entries.length; index++) {
        try {
          entry.encode((entries as readonly Input<Struct<F>>[])[index]!, made, headerSize + index * entry.size);
        } catch (error) {
          if (error instanceof Error) error.message += ` (entry ${index})`;
          throw error;
        }
      }
      return made;
    },
    decode(source, count) {
      if (source.byteLength < headerSize) throw rangeError(`at least ${headerSize} bytes`, label, source);
      const total = count ?? new DataView(source.buffer, source.byteOffset).getUint32(0, true);
      const decoded: Decoded<Struct<F>>[] = [];
      for (let index = 0; index < total; index++) {
        decoded.push(entry.decode(source, headerSize + index * entry.size));
      }
      return decoded;
    },
  };
}
