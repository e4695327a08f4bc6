/**
 * The bytes of a region as the host sees them: the shared side. Windows over the mapping are made once and kept, so
 * that an access costs an index and a copy.
 */
import { KvmStateError } from '../errors.ts';
import type { MappingPort } from './ports.ts';

/** A Uint8Array ends below 2^32 bytes, so larger regions have several windows. */
export const WINDOW = 2 ** 31;

// From here on, zeroing a new array costs more than a second step.
const LARGE = 2 ** 20;

interface Window {
  readonly bytes: Uint8Array;
  readonly data: DataView;
}

export class HostSide {
  readonly mapping: MappingPort;
  readonly #offset: number;
  readonly #size: number;
  readonly #windowSize: number;
  readonly #windows: (Window | undefined)[] = [];
  readonly #lend: boolean;

  /** @param options.lend - false: no ArrayBuffers over it, every access is a copy by the addon. */
  constructor(
    mapping: MappingPort,
    offset: number,
    size: number,
    { lend = true, windowSize = WINDOW }: { readonly lend?: boolean; readonly windowSize?: number } = {},
  ) {
    this.mapping = mapping;
    this.#offset = offset;
    this.#size = size;
    this.#windowSize = windowSize;
    this.#lend = lend && mapping.stable;
  }

  /** A copy of [offset, offset + length). */
  copyOut(offset: number, length: number): Uint8Array {
    if (this.#lend && length < LARGE) {
      const at = offset % this.#windowSize;
      if (at + length <= this.#windowSize) return this.#window(offset).bytes.slice(at, at + length);
    }
    return this.#filled(offset, length);
  }

  #filled(offset: number, length: number): Uint8Array {
    // Not zeroed first, since every byte is written; nor from Node's pool, which would keep a large block alive.
    const into = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
    this.read(offset, into);
    return into;
  }

  read(offset: number, into: Uint8Array): void {
    if (!this.#lend) return this.mapping.read(this.#offset + offset, into);
    const { length } = into;
    for (let done = 0; done < length;) {
      const at = (offset + done) % this.#windowSize;
      const part = Math.min(length - done, this.#windowSize - at);
      const source = this.#window(offset + done).bytes.subarray(at, at + part);
      into.set(source, done);
      done += part;
    }
  }

  write(offset: number, from: Uint8Array): void {
    if (!this.#lend) return this.mapping.write(this.#offset + offset, from);
    const { length } = from;
    for (let done = 0; done < length;) {
      const at = (offset + done) % this.#windowSize;
      const part = Math.min(length - done, this.#windowSize - at);
      this.#window(offset + done).bytes.set(part === length ? from : from.subarray(done, done + part), at);
      done += part;
    }
  }

  fill(offset: number, length: number, value: number): void {
    this.mapping.fill(this.#offset + offset, length, value);
  }

  /** The window that holds [offset, offset + length) and where it starts there, if there is such a one. */
  within(offset: number, length: number): { bytes: Uint8Array; data: DataView; at: number } | undefined {
    if (!this.#lend) return undefined;
    const at = offset % this.#windowSize;
    return at + length <= this.#windowSize ? { ...this.#window(offset), at } : undefined;
  }

  /** The DataView of the window at `offset`; undefined where `length` bytes from there are not in one window. */
  dataView(offset: number, length: number): DataView | undefined {
    if (!this.#lend || (offset % this.#windowSize) + length > this.#windowSize) return undefined;
    return this.#window(offset).data;
  }

  /** Where `offset` is in its window. */
  inWindow(offset: number): number {
    return offset % this.#windowSize;
  }

  /** Zero-copy. */
  view(offset: number, length: number): Uint8Array {
    if (!this.#lend) {
      throw new KvmStateError(
        'This memory cannot be viewed without a copy: touching it might raise SIGBUS and kill ' +
          'the process (a file that may be truncated, huge pages that conversions give back). Use read() and ' +
          'write(), which fail with EFAULT instead',
        'ERR_KVM_UNSTABLE',
      );
    }
    const found = this.within(offset, length);
    return found === undefined
      ? this.mapping.view(this.#offset + offset, length)
      : found.bytes.subarray(found.at, found.at + length);
  }

  resident(offset: number, length: number): number {
    return this.mapping.resident(this.#offset + offset, length);
  }

  madvise(offset: number, length: number, advice: number): void {
    this.mapping.madvise(this.#offset + offset, length, advice);
  }

  madviseAsync(offset: number, length: number, advice: number): Promise<void> {
    return this.mapping.madviseAsync(this.#offset + offset, length, advice);
  }

  #window(offset: number): Window {
    const index = Math.floor(offset / this.#windowSize);
    return this.#windows[index] ?? this.#open(index);
  }

  #open(index: number): Window {
    const start = index * this.#windowSize;
    const bytes = this.mapping.view(this.#offset + start, Math.min(this.#windowSize, this.#size - start));
    const window = { bytes, data: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength) };
    this.#windows[index] = window;
    return window;
  }
}
