/** guest_memfd: memory that belongs to one VM, and that the host cannot map unless the VM allows it. */
import { GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP } from '../abi/index.ts';
import { pageAlignedBytes, rangeError, u64, uint } from '../arguments.ts';
import { KvmUnsupportedError } from '../errors.ts';
import type { NativeGuestMemfd } from '../native.ts';
import { Handle } from './handle.ts';
import { HostMapping } from './host-mapping.ts';
import type { Vm } from './vm/vm.ts';

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const PUNCH = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;

/** A part of a guest_memfd that a slot uses. */
export interface GuestMemfdBinding {
  readonly slot: number;
  readonly gpa: bigint;
  /** In bytes. */
  readonly size: number;
  /** In the guest_memfd, in bytes. */
  readonly offset: bigint;
}

/**
 * Made by {@link Vm.createGuestMemfd}. It cannot be read, written or resized; it is filled by the guest, by a launch
 * command, or through {@link map} where it may be mapped. It outlives the slots that it is bound to and keeps its
 * content: bound again, the guest finds what was there. Closing it while it is bound cuts the binding: private accesses
 * then end in memory faults.
 *
 * Its pages are 4 KiB, cannot be swapped or moved, and go only by {@link punchHole} or with the last reference. The
 * kernel does not say how many there are (st_blocks is always 0). *KVM_CREATE_GUEST_MEMFD*
 */
export class GuestMemfd extends Handle<NativeGuestMemfd> {
  /** The VM that it belongs to, for good. */
  readonly vm: Vm;
  /** In bytes. */
  readonly size: bigint;
  /** GUEST_MEMFD_FLAG_MMAP and GUEST_MEMFD_FLAG_INIT_SHARED. */
  readonly flags: bigint;

  /** @internal */
  constructor(vm: Vm, native: NativeGuestMemfd, size: bigint, flags: bigint) {
    super('guest_memfd', native, vm);
    this.vm = vm;
    this.size = size;
    this.flags = flags;
  }

  /** It can be mapped, and all of it is shared with the host: created with MMAP and INIT_SHARED. */
  get hostMapped(): boolean {
    const both = BigInt(GUEST_MEMFD_FLAG_MMAP) | BigInt(GUEST_MEMFD_FLAG_INIT_SHARED);
    return (this.flags & both) === both;
  }

  /** Which slots use it, and which part of it: as far as they were set through this handle of its VM. */
  get bindings(): GuestMemfdBinding[] {
    return [...this.vm.memslots.values()]
      .filter(({ guestMemfd }) => guestMemfd === this)
      .map(({ slot, gpa, size, guestMemfdOffset }) => ({ slot, gpa, size, offset: guestMemfdOffset }));
  }

  /**
   * Takes memory for a range now, instead of at the first access; it is zeroed.
   *
   * @param offset - in bytes, a multiple of 4096.
   * @param length - in bytes, a multiple of 4096; must end within the file.
   * @throws KvmSystemError ENOMEM, or EINVAL past the end. *fallocate(2), FALLOC_FL_KEEP_SIZE*
   */
  fallocate(offset: number | bigint, length: number | bigint): void {
    this.#fallocate(FALLOC_FL_KEEP_SIZE, offset, length);
  }

  /** The same on a pool thread. */
  async fallocateAsync(offset: number | bigint, length: number | bigint): Promise<void> {
    await this.#fallocateAsync(FALLOC_FL_KEEP_SIZE, offset, length);
  }

  /**
   * Frees the pages of a range and takes them from the guest and from all mappings; the next access finds zeros (an SNP
   * or TDX guest has to accept the page again). What reaches past the end of the file is ignored by the kernel.
   *
   * @param offset - in bytes, a multiple of 4096.
   * @param length - in bytes, a multiple of 4096. *fallocate(2), FALLOC_FL_PUNCH_HOLE*
   */
  punchHole(offset: number | bigint, length: number | bigint): void {
    this.#fallocate(PUNCH, offset, length);
  }

  /** The same on a pool thread. */
  async punchHoleAsync(offset: number | bigint, length: number | bigint): Promise<void> {
    await this.#fallocateAsync(PUNCH, offset, length);
  }

  /**
   * Maps it into this process. A guest_memfd made without INIT_SHARED is never mapped: touching a page that is private
   * ends the process with SIGBUS.
   *
   * @param offset - in bytes, a multiple of 4096; default 0n.
   * @param length - in bytes, a multiple of 4096; default to the end.
   * @throws KvmUnsupportedError without GUEST_MEMFD_FLAG_MMAP and GUEST_MEMFD_FLAG_INIT_SHARED.
   */
  map(offset: number | bigint = 0n, length?: number | bigint): HostMapping {
    this.expectOpen();
    if (!this.hostMapped) {
      const missing =
        (this.flags & GUEST_MEMFD_FLAG_MMAP) === 0n ? 'GUEST_MEMFD_FLAG_MMAP' : 'GUEST_MEMFD_FLAG_INIT_SHARED';
      throw new KvmUnsupportedError(
        `This guest_memfd was made without ${missing}, so the host has no access to its ` +
          'pages. Make it with both flags where KVM_CAP_GUEST_MEMFD_FLAGS of the VM has them (Linux 6.18, VM type default)',
        missing,
      );
    }
    const from = startOf(offset);
    const rest = this.size > from ? this.size - from : 4096n;
    const [start, bytes] = this.#range(from, length ?? rest, true);
    return HostMapping.file(this, { offset: Number(start), size: Number(bytes) });
  }

  #fallocate(mode: number, offset: number | bigint, length: number | bigint): void {
    this.#checkRange(offset, length, mode !== PUNCH);
    try {
      this.native.fallocate(mode, BigInt(offset), BigInt(length));
    } catch (error) {
      throw this.wrap(error, { state: describe(offset, length) });
    }
  }

  async #fallocateAsync(mode: number, offset: number | bigint, length: number | bigint): Promise<void> {
    this.#checkRange(offset, length, mode !== PUNCH);
    await this.checkAsync(() => this.native.fallocateAsync(mode, BigInt(offset), BigInt(length)), {
      state: describe(offset, length),
    });
  }

  /** What is right and in numbers is so without a bigint. */
  #checkRange(offset: number | bigint, length: number | bigint, inside: boolean): void {
    if (typeof offset === 'number' && typeof length === 'number') {
      const end = offset + length;
      // From 4096 on, the division is exact; below, the smallest numbers that there are would come out as 0.
      if (
        (offset === 0 || offset >= 4096) &&
        length >= 4096 &&
        end <= Number(this.size) &&
        Number.isInteger(offset / 4096) &&
        Number.isInteger(length / 4096)
      ) {
        this.expectOpen();
        return;
      }
    }
    this.#range(offset, length, inside);
  }

  #range(offset: number | bigint, length: number | bigint, inside: boolean): [bigint, bigint] {
    this.expectOpen();
    const start = startOf(offset);
    if (inside && start >= this.size) {
      throw rangeError(`an offset inside the guest_memfd's ${this.size} bytes`, 'offset', offset);
    }
    const bytes = pageAlignedBytes('length', length);
    if (inside && start + bytes > this.size) {
      throw rangeError(
        `a length that ends within the guest_memfd (${this.size} bytes) from offset ${start} on`,
        'length',
        length,
      );
    }
    if (start + bytes > 0x7fff_ffff_ffff_f000n) throw rangeError('a range that ends below 2^63', 'length', length);
    return [start, bytes];
  }
}

function startOf(offset: number | bigint): bigint {
  const start = typeof offset === 'bigint' ? u64('offset', offset) : BigInt(uint('offset', offset));
  if (start % 4096n !== 0n) throw rangeError('a multiple of 4096', 'offset', offset);
  return start;
}

function describe(offset: number | bigint, length: number | bigint): string {
  return `offset 0x${offset.toString(16)}, length 0x${length.toString(16)}`;
}
