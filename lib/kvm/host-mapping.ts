/** Host memory, mapped: what a memslot gives to the guest. */
import {
  boolean,
  bytes as checkBytes,
  oneOf,
  options as checkOptions,
  pageAlignedOffset,
  pageAlignedSize,
  rangeError,
  typeError,
  uint,
} from '../arguments.ts';
import { KvmUnsupportedError } from '../errors.ts';
import { native as addon } from '../native.ts';
import type { NativeMapping, NativeMemoryFile } from '../native.ts';
import { Closeable, Handle, expectHandle, explain, nativeOf } from './handle.ts';

/** How anonymous memory is mapped. */
export interface AnonymousOptions {
  /** MAP_SHARED; default false. */
  readonly shared?: boolean;
  /** The huge page size in bytes: 0 (default, none), 2 MiB or 1 GiB. `size` must be a multiple of it. */
  readonly hugetlb?: 0 | 0x200000 | 0x40000000;
  /** Do not count it against the overcommit limit; default false. */
  readonly noreserve?: boolean;
}

/** Which part of a file is mapped, and how. */
export interface FileMappingOptions {
  /** In bytes, a multiple of 4096; default 0. */
  readonly offset?: number;
  /** In bytes, a multiple of 4096; default: from `offset` to the end of the file. */
  readonly size?: number;
  /** MAP_SHARED (default): writes reach the file. Otherwise they stay in this mapping. */
  readonly shared?: boolean;
  /** Default true. */
  readonly writable?: boolean;
}

/** What a mapping shows. */
export interface MappingOrigin {
  /** The memfd, file or guest_memfd; it may be closed by now. */
  readonly file: Handle<NativeMemoryFile>;
  /** Of the mapping's first byte. */
  readonly offset: number;
}

/** Names a mapping for another thread of this process: see {@link HostMapping.adopt}. */
export interface HostMappingToken {
  readonly kind: 'node-kvm:host-mapping';
  readonly token: bigint;
}

const HUGETLB_LOG2: ReadonlyMap<unknown, number> = new Map([
  [0, 0],
  [0x200000, 21],
  [0x40000000, 30],
]);
const ADVICE = {
  dontneed: 4,
  free: 8,
  remove: 9,
  hugepage: 14,
  nohugepage: 15,
  'populate-read': 22,
  'populate-write': 23,
} as const;

/** Advice to the kernel about mapped memory, by madvise's own names. */
export type Advice = keyof typeof ADVICE;

/** The longest single view: what a typed array can have, in whole pages. */
const MAX_VIEW = 2 ** 32 - 4096;

/**
 * Mapped host memory. It lives until this handle and those made by {@link adopt} are closed, its views are detached,
 * and no memslot uses it any more; closing the handle early is therefore safe.
 */
export class HostMapping extends Closeable<NativeMapping> {
  /** In bytes, a multiple of 4096. */
  readonly length: number;
  /**
   * Whether touching it can never raise SIGBUS: anonymous memory, memfds sealed against shrinking, and guest_memfds with
   * INIT_SHARED. Only such memory has views; the rest is copied by {@link read} and {@link write}.
   */
  readonly stable: boolean;
  /** Which file it shows, and from where on, where it was made by {@link file} in this thread. */
  readonly origin: MappingOrigin | undefined;

  /** @internal */
  constructor(native: NativeMapping, origin?: MappingOrigin) {
    super('host mapping', native);
    this.length = Number(native.length);
    this.stable = native.stable;
    this.origin = origin;
  }

  /**
   * Anonymous memory, zeroed.
   *
   * @param size - in bytes, a multiple of 4096 (of the huge page size with `hugetlb`).
   * @throws KvmSystemError ENOMEM: not that much memory, or not that many huge pages. *mmap(2)*
   */
  static anonymous(size: number, options: AnonymousOptions = {}): HostMapping {
    pageAlignedSize('size', size);
    const {
      shared = false,
      hugetlb = 0,
      noreserve = false,
    } = checkOptions<AnonymousOptions>('options', options, ['shared', 'hugetlb', 'noreserve']);
    boolean('options.shared', shared);
    boolean('options.noreserve', noreserve);
    const log2 = HUGETLB_LOG2.get(hugetlb);
    if (log2 === undefined) throw typeError('0, 2097152 or 1073741824', 'options.hugetlb', hugetlb);
    if (hugetlb !== 0 && size % hugetlb !== 0) {
      throw rangeError(`a multiple of the huge page size ${hugetlb}`, 'size', size);
    }
    return mapped(() => addon().mapAnonymous(BigInt(size), { shared, hugetlb: log2, noreserve }), `${size} bytes`, {
      ENOMEM:
        hugetlb === 0
          ? 'the host does not have that much memory to give: a smaller size, or noreserve'
          : `the pool has too few free huge pages of this size: raise nr_hugepages for ${hugetlb / 1024} kB`,
    });
  }

  /** Maps a memfd, a file or a guest_memfd. See {@link HostFile} and {@link GuestMemfd.map}. *mmap(2)* */
  static file(file: Handle<NativeMemoryFile>, options: FileMappingOptions = {}): HostMapping {
    expectHandle(Handle<NativeMemoryFile>, 'a HostFile or a GuestMemfd', 'file', file);
    const native = nativeOf(file);
    if (typeof native.size !== 'bigint') throw typeError('a HostFile or a GuestMemfd', 'file', file);
    const {
      offset = 0,
      shared = true,
      writable = true,
      size: given,
    } = checkOptions<FileMappingOptions>('options', options, ['offset', 'size', 'shared', 'writable']);
    boolean('options.shared', shared);
    boolean('options.writable', writable);
    pageAlignedOffset('options.offset', offset);
    const size = given === undefined ? Number(native.size) - offset : given;
    pageAlignedSize('options.size', size);
    if (BigInt(offset) + BigInt(size) > native.size) {
      throw rangeError(`at most ${native.size - BigInt(offset)} bytes from offset ${offset} on`, 'options.size', size);
    }
    return mapped(
      () => addon().mapFile(native, BigInt(offset), BigInt(size), shared, writable),
      `offset ${offset}, size ${size}`,
      {
        ENODEV: 'this file cannot be mapped: a guest_memfd needs GUEST_MEMFD_FLAG_MMAP (Linux 6.18)',
        EACCES: 'the file is not open for what was asked, or is sealed against writing',
      },
      { file, offset },
    );
  }

  /**
   * A zero-copy view. Detached (length 0) when this handle is closed; several views may overlap.
   *
   * @param offset - in bytes, default 0.
   * @param length - in bytes, default to the end; at most 2^32 - 4096.
   * @throws KvmUnsupportedError where the memory is not {@link stable}.
   */
  view(offset = 0, length = this.#rest(offset)): Uint8Array {
    this.#range(offset, length);
    if (length > MAX_VIEW) throw rangeError(`at most ${MAX_VIEW} bytes in one view`, 'length', length);
    if (!this.stable) {
      throw new KvmUnsupportedError(
        'No view of this mapping can be handed out, since touching it may raise SIGBUS and ' +
          'end the process (a file that can shrink, huge pages, or a guest_memfd whose pages can become private): use ' +
          'read() and write()',
        'stable mapping',
      );
    }
    return new Uint8Array(this.check(() => this.native.buffer(BigInt(offset), length)));
  }

  /** Copies `length` bytes out into a new array. @throws KvmSystemError EFAULT where there is no page behind it. */
  read(offset: number, length: number): Uint8Array;
  /** Fills `into`. */
  read(offset: number, into: Uint8Array): void;
  read(offset: number, target: number | Uint8Array): Uint8Array | undefined {
    const into =
      typeof target === 'number'
        ? new Uint8Array(this.#range(offset, uint('length', target, { max: MAX_VIEW })))
        : checkBytes('into', target);
    this.#range(offset, into.length);
    this.check(() => this.native.read(BigInt(offset), into), { state: `offset ${offset}, length ${into.length}` });
    return typeof target === 'number' ? into : undefined;
  }

  /** Copies `from` in. @throws KvmSystemError EFAULT where there is no page behind it, or it is not writable. */
  write(offset: number, from: Uint8Array): void {
    this.#range(offset, checkBytes('from', from).length);
    this.check(() => this.native.write(BigInt(offset), from), { state: `offset ${offset}, length ${from.length}` });
  }

  /** Sets `length` bytes to `value` (0 to 255). */
  fill(offset: number, length: number, value: number): void {
    this.#range(offset, length);
    uint('value', value, { max: 255 });
    this.check(() => this.native.fill(BigInt(offset), BigInt(length), value));
  }

  /**
   * Advises the kernel about whole pages: `'dontneed'` drops private anonymous pages (they read as zero afterwards),
   * `'remove'` punches a hole into shared memory. Huge pages with views are not given back (EBUSY), nor those whose views
   * were detached by {@link close}, since a pool thread may still work on them. *madvise(2)*
   */
  madvise(offset: number, length: number, advice: Advice | number): void {
    this.#pages(offset, length);
    const number = adviceNumber(advice);
    try {
      this.native.madvise(BigInt(offset), BigInt(length), number);
    } catch (error) {
      throw this.wrap(error);
    }
  }

  /** The same on a pool thread. */
  async madviseAsync(offset: number, length: number, advice: Advice | number): Promise<void> {
    this.#pages(offset, length);
    await this.checkAsync(() => this.native.madviseAsync(BigInt(offset), BigInt(length), adviceNumber(advice)));
  }

  /** How many bytes of a range are in memory now. *mincore(2)* */
  resident(offset = 0, length = this.#rest(offset)): number {
    this.#pages(offset, length);
    return Number(this.check(() => this.native.resident(BigInt(offset), BigInt(length))));
  }

  /** Another handle to the same memory, with views of its own. */
  again(): HostMapping {
    this.expectOpen();
    return mapped(() => addon().adoptMapping(this.native.token()), 'another handle', {}, this.origin);
  }

  /** A token for another thread of this process. */
  share(): HostMappingToken {
    this.expectOpen();
    return { kind: 'node-kvm:host-mapping', token: this.native.token() };
  }

  /** The mapping of a token, as a handle of its own with views of its own. */
  static adopt(token: HostMappingToken): HostMapping {
    if (typeof token !== 'object' || token === null || token.kind !== 'node-kvm:host-mapping') {
      throw typeError('a token made by mapping.share()', 'token', token);
    }
    return mapped(() => addon().adoptMapping(token.token), 'adopting a token', {});
  }

  #range(offset: number, length: number): number {
    this.expectOpen();
    uint('offset', offset, { max: this.length });
    return uint('length', length, { max: this.length - offset });
  }

  /** What there is from an offset on, which nobody has looked at yet. */
  #rest(offset: number): number {
    this.expectOpen();
    return this.length - uint('offset', offset, { max: this.length });
  }

  #pages(offset: number, length: number): void {
    // From 4096 on, the division is exact; below, the smallest numbers that there are would come out as 0.
    if (
      typeof offset === 'number' &&
      typeof length === 'number' &&
      (offset === 0 || offset >= 4096) &&
      length >= 4096 &&
      offset + length <= this.length &&
      Number.isInteger(offset / 4096) &&
      Number.isInteger(length / 4096)
    ) {
      this.expectOpen();
      return;
    }
    this.#range(pageAlignedOffset('offset', offset), pageAlignedSize('length', length));
  }
}

function adviceNumber(advice: Advice | number): number {
  if (typeof advice === 'number') return uint('advice', advice);
  return ADVICE[oneOf('advice', advice, Object.keys(ADVICE) as Advice[])];
}

function mapped(
  make: () => NativeMapping,
  state: string,
  hints: Readonly<Record<string, string>>,
  origin?: MappingOrigin,
): HostMapping {
  try {
    return new HostMapping(make(), origin);
  } catch (error) {
    throw explain(error, { state, hint: hints[(error as { code?: string }).code ?? ''] });
  }
}
