/** Reading little-endian fields of a file that somebody else wrote: every read is checked and named. */
import { KvmFormatError } from './errors.ts';

/** What a read is of: the name that the format's specification gives the field. */
type Field = string;

/**
 * A view of untrusted bytes. Each read names its field, and a read past the end is a KvmFormatError with that name.
 * Offsets and lengths may be any number that a file can hold: what is no safe integer is past the end.
 */
export class FormatReader {
  /** What the bytes are taken for, in every error. */
  readonly format: string;
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(format: string, bytes: Uint8Array) {
    this.format = format;
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get length(): number {
    return this.bytes.byteLength;
  }

  u8(offset: number, field: Field): number {
    return this.#view.getUint8(this.#at(offset, 1, field));
  }

  u16(offset: number, field: Field): number {
    return this.#view.getUint16(this.#at(offset, 2, field), true);
  }

  u32(offset: number, field: Field): number {
    return this.#view.getUint32(this.#at(offset, 4, field), true);
  }

  u64(offset: number, field: Field): bigint {
    return this.#view.getBigUint64(this.#at(offset, 8, field), true);
  }

  /** A 64-bit field that counts or offsets something in memory: above 2^53 - 1 it is wrong. */
  size(offset: number, field: Field): number {
    const value = this.u64(offset, field);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw this.error(field, `0x${value.toString(16)} is no size`);
    return Number(value);
  }

  /** A view of `length` bytes, not a copy. */
  slice(offset: number, length: number, field: Field): Uint8Array {
    const start = this.#at(offset, length, field);
    return this.bytes.subarray(start, start + length);
  }

  /** A reader of a part, whose offsets begin at 0. */
  part(offset: number, length: number, field: Field): FormatReader {
    return new FormatReader(this.format, this.slice(offset, length, field));
  }

  /** Text up to the first NUL, or to the end of the part; Latin-1, so that every byte is a character. */
  text(offset: number, length: number, field: Field): string {
    const bytes = this.slice(offset, length, field);
    const end = bytes.indexOf(0);
    return Buffer.from(bytes.buffer, bytes.byteOffset, end < 0 ? bytes.byteLength : end).toString('latin1');
  }

  /** The error for a field that was read and is not what it must be. */
  error(field: Field, message: string): KvmFormatError {
    return new KvmFormatError(message, { format: this.format, field });
  }

  #at(offset: number, length: number, field: Field): number {
    if (!Number.isSafeInteger(offset) || offset < 0 || length < 0 || offset + length > this.length) {
      throw this.error(field, `${length} bytes at offset ${offset} are wanted, of ${this.length} bytes in all`);
    }
    return offset;
  }
}
