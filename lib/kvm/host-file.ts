/** Files and memfds as memory of the host. */
import { boolean, options as checkOptions, pageAlignedBytes, string, typeError, u64, uint } from '../arguments.ts';
import { native as addon } from '../native.ts';
import type { NativeHostFile } from '../native.ts';
import { Handle, explain } from './handle.ts';
import { HostMapping } from './host-mapping.ts';
import type { FileMappingOptions } from './host-mapping.ts';

const F_SEAL_SHRINK = 2;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const HUGETLB_LOG2: ReadonlyMap<unknown, number> = new Map([
  [0, 0],
  [0x200000, 21],
  [0x40000000, 30],
]);

/** An open file whose bytes can be guest memory. */
export class HostFile extends Handle<NativeHostFile> {
  private constructor(native: NativeHostFile, what: string) {
    super(what, native);
  }

  /**
   * A file without a name, of `size` bytes, sealed against shrinking, so that mapping it is safe. *memfd_create(2)*
   *
   * @param size - in bytes, a multiple of 4096 (of the huge page size with `hugetlb`).
   * @param options - `name` is for /proc only (default `'guest'`); `hugetlb` the huge page size in bytes (default: 0).
   */
  static memfd(
    size: number | bigint,
    options: { readonly name?: string; readonly hugetlb?: 0 | 0x200000 | 0x40000000 } = {},
  ): HostFile {
    const length = pageAlignedBytes('size', size);
    const { name = 'guest', hugetlb = 0 } = checkOptions<typeof options>('options', options, ['name', 'hugetlb']);
    const log2 = HUGETLB_LOG2.get(hugetlb);
    if (log2 === undefined) throw typeError('0, 2097152 or 1073741824', 'options.hugetlb', hugetlb);
    const native = opened(() => addon().createMemfd(string('options.name', name), log2, true), 'memfd');
    try {
      native.ftruncate(length);
      native.addSeals(F_SEAL_SHRINK);
    } catch (error) {
      native.close();
      throw explain(error, {
        state: `a memfd of ${size} bytes`,
        hint: log2 === 0 ? undefined : 'the size is not a multiple of the huge page size',
      });
    }
    return new HostFile(native, 'memfd');
  }

  /**
   * Opens a file. Others may shrink it while it is mapped, so its mappings have no views, only `read` and `write`.
   *
   * @param options - `writable`: open for writing too; default false. *open(2)*
   */
  static open(path: string, options: { readonly writable?: boolean } = {}): HostFile {
    const { writable = false } = checkOptions<typeof options>('options', options, ['writable']);
    boolean('options.writable', writable);
    string('path', path);
    return new HostFile(
      opened(() => addon().openFile(path, writable), path),
      path,
    );
  }

  /** In bytes, now. */
  get size(): bigint {
    return this.check(() => this.native.size);
  }

  /** Maps it: see {@link HostMapping.file}. */
  map(options: FileMappingOptions = {}): HostMapping {
    this.expectOpen();
    return HostMapping.file(this, options);
  }

  /** Takes memory (or disk) for a range now. *fallocate(2)* */
  fallocate(offset: number | bigint, length: number | bigint): void {
    this.#fallocate(FALLOC_FL_KEEP_SIZE, offset, length);
  }

  /** Gives the pages of a range back: it reads as zero afterwards. *fallocate(2), FALLOC_FL_PUNCH_HOLE* */
  punchHole(offset: number | bigint, length: number | bigint): void {
    this.#fallocate(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length);
  }

  #fallocate(mode: number, offset: number | bigint, length: number | bigint): void {
    const start = typeof offset === 'bigint' ? u64('offset', offset) : BigInt(uint('offset', offset));
    const bytes = pageAlignedBytes('length', length);
    this.check(() => this.native.fallocate(mode, start, bytes), {
      state: `offset ${offset}, length ${length}`,
    });
  }
}

function opened(make: () => NativeHostFile, what: string): NativeHostFile {
  try {
    return make();
  } catch (error) {
    throw explain(error, { message: `Opening ${what}` });
  }
}
