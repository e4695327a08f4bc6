/**
 * The host's access to guest memory: bounds-checked, across regions, little-endian. It sees the shared side only; a
 * range that is private is an error unless the caller says `{ side: 'shared' }` and so knows what it reads.
 */
import * as args from '../arguments.ts';
import { KvmStateError } from '../errors.ts';
import { AddressSpace } from './address-space.ts';
import type { Attribute } from './events.ts';
import type { HostSide } from './host-side.ts';
import { IntervalMap } from './interval-map.ts';
import { hex } from './layout.ts';
import type { MemoryRegion, RemoveOptions } from './region.ts';

/** Which side of private memory a read or write means. */
export interface AccessOptions {
  /** `'shared'`: the shared side, even where the guest has the private one. */
  readonly side?: 'shared';
}

const PAGES = 2 ** 40;
const CHUNK = 2 ** 18;
// From here on, zeroing a new array costs more than a second step.
const SLICE_MAX = 2 ** 20;
const EMPTY = new Uint8Array(0);

export abstract class AccessibleMemory extends AddressSpace {
  /** By page. The kernel has no getter, so this is the truth. */
  protected readonly attributeMap = new IntervalMap<Attribute>('shared', PAGES);
  readonly #scratch = new Uint8Array(8);
  readonly #scratchView = new DataView(this.#scratch.buffer);
  #view: DataView = this.#scratchView;
  // The window that the last copy went to: most go where one has been. An access inside it costs a comparison and the
  // copy. Its length is 0 once its region is removed, or its mapping closed, since then it is detached.
  #window: Uint8Array = EMPTY;
  #windowBuffer = this.#window.buffer;
  #windowOffset = 0;
  #windowStart = 0;
  #windowShared = false;

  /**
   * A copy of `length` bytes at `gpa`.
   *
   * @throws RangeError where the range leaves guest memory; KvmStateError `ERR_KVM_PRIVATE` where it is private.
   */
  read(gpa: bigint, length: number, options?: AccessOptions): Uint8Array {
    const at = this.#inWindow(gpa, length, options);
    if (at >= 0 && length < SLICE_MAX) return this.#window.slice(at, at + length);
    const start = this.#range(gpa, args.uint('length', length), options);
    const region = this.layout.find(start);
    if (region !== undefined && start + length <= region.end) {
      const host = hostOf(region);
      this.#moveWindow(region, host, start, length);
      return host.copyOut(start - region.start, length);
    }
    const into = new Uint8Array(length);
    this.#each(gpa, start, length, (host, offset, at, part) => host.read(offset, into.subarray(at, at + part)));
    return into;
  }

  /** Fills `into` with the bytes at `gpa`. Throws as {@link read}. */
  readInto(gpa: bigint, into: Uint8Array, options?: AccessOptions): void {
    const { length } = args.bytes('into', into);
    const at = this.#inWindow(gpa, length, options);
    if (at >= 0) {
      into.set(new Uint8Array(this.#windowBuffer, this.#windowOffset + at, length));
      return;
    }
    this.#readSlowly(gpa, into, length, options);
  }

  #readSlowly(gpa: bigint, into: Uint8Array, length: number, options: AccessOptions | undefined): void {
    const start = this.#range(gpa, length, options);
    this.#each(gpa, start, length, (host, offset, at, part) =>
      host.read(offset, part === length ? into : into.subarray(at, at + part)),
    );
  }

  /** Copies `bytes` to `gpa`. Throws as {@link read}, before anything is written. */
  write(gpa: bigint, bytes: Uint8Array, options?: AccessOptions): void {
    const { length } = args.bytes('bytes', bytes);
    const at = this.#inWindow(gpa, length, options);
    if (at >= 0) this.#window.set(bytes, at);
    else this.#writeSlowly(gpa, bytes, length, options);
  }

  #writeSlowly(gpa: bigint, bytes: Uint8Array, length: number, options: AccessOptions | undefined): void {
    const start = this.#range(gpa, length, options);
    this.#each(gpa, start, length, (host, offset, at, part) =>
      host.write(offset, part === length ? bytes : bytes.subarray(at, at + part)),
    );
  }

  /** Sets `length` bytes at `gpa` to `value` (0 to 255). Throws as {@link read}. */
  fill(gpa: bigint, length: number, value: number, options?: AccessOptions): void {
    const start = this.#range(gpa, args.uint('length', length), options);
    args.u8('value', value);
    this.#each(gpa, start, length, (host, offset, _at, part) => host.fill(offset, part, value));
  }

  /** Copies `length` bytes from `source` to `target`, right also where the two overlap. Throws as {@link read}. */
  copy(target: bigint, source: bigint, length: number, options?: AccessOptions): void {
    const from = this.#range(source, args.uint('length', length), options, 'source');
    const to = this.#range(target, length, options, 'target');
    const [one, two] = [this.#within(from, length), this.#within(to, length)];
    if (one !== undefined && two !== undefined) {
      two.bytes.set(one.bytes.subarray(one.at, one.at + length), two.at);
      return;
    }
    const buffer = new Uint8Array(Math.min(length, CHUNK));
    const backwards = to > from;
    for (let done = 0; done < length;) {
      const part = Math.min(length - done, CHUNK);
      const at = backwards ? length - done - part : done;
      const bytes = buffer.subarray(0, part);
      this.#each(source, from + at, part, (host, offset, i, n) => host.read(offset, bytes.subarray(i, i + n)));
      this.#each(target, to + at, part, (host, offset, i, n) => host.write(offset, bytes.subarray(i, i + n)));
      done += part;
    }
  }

  /** Reads a byte at any gpa, as {@link read} does. */
  readU8(gpa: bigint, options?: AccessOptions): number {
    const at = this.#load(gpa, 1, options);
    return this.#view.getUint8(at);
  }

  /** Reads 16 bits, little-endian, at any gpa, as {@link read} does. */
  readU16(gpa: bigint, options?: AccessOptions): number {
    const at = this.#load(gpa, 2, options);
    return this.#view.getUint16(at, true);
  }

  /** Reads 32 bits, little-endian, at any gpa, as {@link read} does. */
  readU32(gpa: bigint, options?: AccessOptions): number {
    const at = this.#load(gpa, 4, options);
    return this.#view.getUint32(at, true);
  }

  /** Reads 64 bits, little-endian, at any gpa, as {@link read} does. */
  readU64(gpa: bigint, options?: AccessOptions): bigint {
    const at = this.#load(gpa, 8, options);
    return this.#view.getBigUint64(at, true);
  }

  /** Writes a byte at any gpa, as {@link write} does. */
  writeU8(gpa: bigint, value: number, options?: AccessOptions): void {
    args.u8('value', value);
    const at = this.#locate(gpa, 1, options);
    this.#view.setUint8(at, value);
    this.#store(gpa, 1);
  }

  /** Writes 16 bits, little-endian, at any gpa, as {@link write} does. */
  writeU16(gpa: bigint, value: number, options?: AccessOptions): void {
    args.u16('value', value);
    const at = this.#locate(gpa, 2, options);
    this.#view.setUint16(at, value, true);
    this.#store(gpa, 2);
  }

  /** Writes 32 bits, little-endian, at any gpa, as {@link write} does. */
  writeU32(gpa: bigint, value: number, options?: AccessOptions): void {
    args.u32('value', value);
    const at = this.#locate(gpa, 4, options);
    this.#view.setUint32(at, value, true);
    this.#store(gpa, 4);
  }

  /** Writes 64 bits, little-endian, at any gpa, as {@link write} does. */
  writeU64(gpa: bigint, value: bigint, options?: AccessOptions): void {
    args.u64('value', value);
    const at = this.#locate(gpa, 8, options);
    this.#view.setBigUint64(at, value, true);
    this.#store(gpa, 8);
  }

  /**
   * The text at `gpa` up to its NUL, as UTF-8.
   *
   * @param options.maxLength - bytes to look through, default 4096.
   * @throws RangeError where there is no NUL within `maxLength`, or before the end of guest memory.
   */
  readCString(gpa: bigint, options: AccessOptions & { readonly maxLength?: number } = {}): string {
    const { maxLength: given, ...access } = args.options('options', options, ['maxLength', 'side']);
    const maxLength = args.uint('maxLength', given ?? 4096, { min: 1 });
    const start = Number(args.gpa('gpa', gpa));
    const parts: Uint8Array[] = [];
    for (let done = 0; done < maxLength;) {
      // To the end of the page and no further: what follows may be private, or nothing.
      const part = Math.min(maxLength - done, args.PAGE_SIZE - ((start + done) % args.PAGE_SIZE));
      const bytes = this.read(gpa + BigInt(done), part, access);
      const nul = bytes.indexOf(0);
      parts.push(nul < 0 ? bytes : bytes.subarray(0, nul));
      if (nul >= 0) return Buffer.concat(parts).toString('utf8');
      done += part;
    }
    throw args.rangeError(`a NUL within ${maxLength} bytes`, 'the text at gpa', gpa);
  }

  /**
   * The bytes themselves, without a copy. The guest changes them under the reader: copy, then check, then use.
   * They are detached (length 0) when the region is removed. A later conversion does not detach them: they stay the
   * shared side.
   *
   * @throws RangeError where the range is not in one region; KvmStateError `ERR_KVM_UNSTABLE` where touching the memory
   *   could raise SIGBUS (a file, huge pages), `ERR_KVM_PRIVATE` where it is private.
   */
  view(gpa: bigint, length: number, options?: AccessOptions): Uint8Array {
    const start = this.#range(gpa, args.uint('length', length, { max: 2 ** 32 - 4096 }), options);
    const region = this.layout.find(start)!;
    if (start + length > region.end) {
      throw new RangeError(
        `${args.expectedMessage('a range inside one region', 'length', length)}: slot ` +
          `${region.slot} ends at ${hex(region.end)}, and what follows is other memory of the host`,
      );
    }
    return hostOf(region).view(start - region.start, length);
  }

  /**
   * Sets `#view` to where a number is in memory and returns the index there; to the scratch bytes where it has no such
   * place (it crosses a border, or the memory has no views). Nothing is allocated.
   */
  #locate(gpa: bigint, length: number, options: AccessOptions | undefined): number {
    const start = this.#range(gpa, length, options);
    const region = this.layout.find(start)!;
    const offset = start - region.start;
    const view = start + length <= region.end ? hostOf(region).dataView(offset, length) : undefined;
    this.#view = view ?? this.#scratchView;
    return view === undefined ? 0 : region.host!.inWindow(offset);
  }

  #load(gpa: bigint, length: number, options: AccessOptions | undefined): number {
    const at = this.#locate(gpa, length, options);
    if (this.#view === this.#scratchView) {
      this.#each(gpa, Number(gpa), length, (host, offset, i, part) =>
        host.read(offset, this.#scratch.subarray(i, i + part)),
      );
    }
    return at;
  }

  /** Brings a number from the scratch bytes to memory, where it was put there. */
  #store(gpa: bigint, length: number): void {
    if (this.#view !== this.#scratchView) return;
    this.#each(gpa, Number(gpa), length, (host, offset, i, part) =>
      host.write(offset, this.#scratch.subarray(i, i + part)),
    );
  }

  /** Checks that the whole range is guest memory and on the side that the host sees; returns its start as a number. */
  #range(gpa: bigint, length: number, options: AccessOptions | undefined, name = 'gpa'): number {
    const start = Number(args.gpa(name, gpa));
    const end = start + length;
    const region = this.layout.find(start);
    if (region === undefined || (end > region.end && this.layout.gap(start, end) !== undefined)) {
      this.assertOpen();
      throw this.layout.outside(name, gpa, start, end);
    }
    if (options !== undefined && args.options('options', options, ['side']).side !== undefined) {
      args.oneOf('side', options.side, ['shared']);
      return start;
    }
    if (this.attributeMap.uniform !== 'shared' && length > 0) this.#refusePrivate(start, end);
    return start;
  }

  #refusePrivate(start: number, end: number): void {
    const first = Math.floor(start / args.PAGE_SIZE);
    const last = Math.ceil(end / args.PAGE_SIZE);
    if (this.attributeMap.every(first, last, 'shared')) return;
    const page = this.attributeMap.intervals(first, last).find(({ value }) => value === 'private')!;
    throw new KvmStateError(
      `Guest memory at ${hex(page.start * args.PAGE_SIZE)}-${hex(page.end * args.PAGE_SIZE)} ` +
        `is ` +
        "private: the host cannot see it. Convert it to shared first, or say { side: 'shared' } for the shared copy, " +
        'which the guest does not use now',
      'ERR_KVM_PRIVATE',
    );
  }

  #within(start: number, length: number): { bytes: Uint8Array; at: number } | undefined {
    const region = this.layout.find(start);
    if (region === undefined || start + length > region.end) return undefined;
    return hostOf(region).within(start - region.start, length);
  }

  /** Where a range is in the window; -1 where it is not, or where it takes a closer look to say whether it may be. */
  #inWindow(gpa: bigint, length: number, options: AccessOptions | undefined): number {
    if (typeof gpa !== 'bigint' || typeof length !== 'number' || options !== undefined) return -1;
    // Not exact above 2^53, where no window is.
    const at = Number(gpa) - this.#windowStart;
    const inside = at >= 0 && length > 0 && at + length <= this.#window.length;
    return inside && (this.#windowShared || this.attributeMap.uniform === 'shared') ? at : -1;
  }

  protected override removeRegion(region: MemoryRegion, options: RemoveOptions): void {
    super.removeRegion(region, options);
    this.#window = EMPTY;
  }

  #moveWindow(region: MemoryRegion, host: HostSide, start: number, length: number): void {
    const found = host.within(start - region.start, length);
    if (found === undefined) return;
    this.#window = found.bytes;
    this.#windowBuffer = found.bytes.buffer;
    this.#windowOffset = found.bytes.byteOffset;
    this.#windowStart = start - found.at;
    // Without a private side nothing in it can be private.
    this.#windowShared = !region.convertible;
  }

  /** Region by region. `at` counts from the start of the whole range. The range was checked. */
  #each(
    gpa: bigint,
    start: number,
    length: number,
    access: (host: HostSide, offset: number, at: number, part: number) => void,
  ): void {
    const end = start + length;
    for (let at = start; at < end;) {
      const region = this.layout.find(at);
      if (region === undefined) throw this.layout.outside('gpa', gpa, start, end);
      const to = Math.min(end, region.end);
      const host = hostOf(region);
      this.#moveWindow(region, host, at, to - at);
      access(host, at - region.start, at - start, to - at);
      at = to;
    }
  }
}

function hostOf(region: MemoryRegion): HostSide {
  if (region.host !== undefined) return region.host;
  throw new KvmStateError(
    `Slot ${region.slot} at ${hex(region.start)} has no shared side: it was added with backing ` + "'none'",
    'ERR_KVM_PRIVATE',
  );
}
