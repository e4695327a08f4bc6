/** A descriptor chain: the buffers of one request, checked (virtio 1.2, 2.7.5). */
import type { DeviceMemory } from '../ports.ts';
import { VirtioError } from './error.ts';

const DESCRIPTOR_SIZE = 16;
const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
/** More bytes than this in one request are no request: the specification's own limit. */
const MAX_CHAIN_BYTES = 2 ** 32;

/** The buffers of a request, as live views of guest memory: the guest may change what is in them at any moment. */
export interface DescriptorChain {
  /** The index by which the request is given back. */
  readonly head: number;
  /** What the driver wrote for the device, in order. */
  readonly readable: readonly Uint8Array[];
  readonly readableSize: number;
  /** What the device may write, in order. */
  readonly writable: readonly Uint8Array[];
  readonly writableSize: number;
}

/** A view that parses little-endian fields. */
export function fieldsOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Reads chains out of one descriptor table. Each field is read once, since the guest may change it afterwards. */
export class ChainReader {
  readonly #memory: DeviceMemory;
  readonly #table: DataView;
  readonly #size: number;
  readonly #indirect: boolean;

  constructor(memory: DeviceMemory, table: DataView, size: number, indirect: boolean) {
    this.#memory = memory;
    this.#table = table;
    this.#size = size;
    this.#indirect = indirect;
  }

  /** @throws VirtioError for a chain that breaks a rule, or that leaves guest memory. */
  read(head: number): DescriptorChain {
    if (head >= this.#size) throw new VirtioError(`descriptor ${head} is not in a table of ${this.#size}`);
    const flags = this.#table.getUint16(head * DESCRIPTOR_SIZE + 12, true);
    if ((flags & INDIRECT) === 0) return this.#walk(head, this.#table, this.#size, head);
    if (!this.#indirect) throw new VirtioError('an indirect descriptor, which was not negotiated');
    if ((flags & NEXT) !== 0) throw new VirtioError('an indirect descriptor with a next one');
    const address = this.#address(this.#table, head);
    const length = this.#table.getUint32(head * DESCRIPTOR_SIZE + 8, true);
    const size = length / DESCRIPTOR_SIZE;
    if (!Number.isInteger(size) || size === 0 || size > 0xffff)
      throw new VirtioError(`an indirect table of ${length} bytes`);
    // A copy: of a table in the guest's memory, two reads of one field may differ.
    return this.#walk(0, fieldsOf(copyOf(this.#views(address, length, 'an indirect table'), length)), size, head);
  }

  #walk(first: number, table: DataView, size: number, head: number): DescriptorChain {
    const readable: Uint8Array[] = [];
    const writable: Uint8Array[] = [];
    let readableSize = 0;
    let writableSize = 0;
    for (let index = first, count = 1; ; count++) {
      if (count > size) throw new VirtioError('a chain that goes round in a circle');
      const at = index * DESCRIPTOR_SIZE;
      const length = table.getUint32(at + 8, true);
      const flags = table.getUint16(at + 12, true);
      const next = table.getUint16(at + 14, true);
      if ((flags & INDIRECT) !== 0) throw new VirtioError('an indirect descriptor within a chain');
      const address = this.#address(table, index);
      if ((flags & WRITE) !== 0) {
        if (length > 0) writable.push(...this.#views(address, length, 'a writable buffer'));
        writableSize += length;
      } else {
        if (writableSize > 0 || writable.length > 0) throw new VirtioError('a readable buffer after a writable one');
        if (length > 0) readable.push(...this.#views(address, length, 'a readable buffer'));
        readableSize += length;
      }
      if (readableSize + writableSize > MAX_CHAIN_BYTES) throw new VirtioError('a chain of more than 4 GiB');
      if ((flags & NEXT) === 0) return { head, readable, readableSize, writable, writableSize };
      if (next >= size) throw new VirtioError(`descriptor ${next} is not in a table of ${size}`);
      index = next;
    }
  }

  #address(table: DataView, index: number): number {
    const at = index * DESCRIPTOR_SIZE;
    const high = table.getUint32(at + 4, true);
    const low = table.getUint32(at, true);
    if (high >= 2 ** 20)
      throw new VirtioError(`address 0x${((BigInt(high) << 32n) | BigInt(low)).toString(16)} is beyond 52 bits`);
    return high * 2 ** 32 + low;
  }

  #views(address: number, length: number, what: string): Uint8Array[] {
    const views = this.#memory.views(address, length);
    if (views === undefined)
      throw new VirtioError(`${what} of ${length} bytes at 0x${address.toString(16)} is not in guest memory`);
    return views;
  }
}

/** The first `length` bytes of some views, or all of them, as a copy of their own. */
export function copyOf(views: readonly Uint8Array[], length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const view of views) {
    if (at >= length) break;
    const piece = view.byteLength > length - at ? view.subarray(0, length - at) : view;
    bytes.set(piece, at);
    at += piece.byteLength;
  }
  return at === length ? bytes : bytes.subarray(0, at);
}

/** Writes bytes over some views, in order. @returns how many of them found room. */
export function copyInto(views: readonly Uint8Array[], bytes: Uint8Array): number {
  let at = 0;
  for (const view of views) {
    if (at >= bytes.byteLength) break;
    const piece = bytes.subarray(at, at + view.byteLength);
    view.set(piece);
    at += piece.byteLength;
  }
  return at;
}

/** What is left of some views without their first `offset` bytes. */
export function viewsFrom(views: readonly Uint8Array[], offset: number): Uint8Array[] {
  const rest: Uint8Array[] = [];
  let skip = offset;
  for (const view of views) {
    if (skip >= view.byteLength) skip -= view.byteLength;
    else {
      rest.push(skip === 0 ? view : view.subarray(skip));
      skip = 0;
    }
  }
  return rest;
}
