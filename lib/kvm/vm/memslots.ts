/**
 * Memslots: which guest physical addresses are backed by what. The kernel answers a dozen mistakes with one EINVAL, so
 * those that can be seen from here are refused first, by name.
 */
import {
  GUEST_MEMFD_FLAG_MMAP,
  KVM_MEM_GUEST_MEMFD,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
} from '../../abi/index.ts';
import {
  boolean,
  options as checkOptions,
  pageAlignedGpaRange,
  pageAlignedOffset,
  pageAlignedSize,
  rangeError,
  u32,
  u64,
} from '../../arguments.ts';
import { KvmStateError, KvmUnsupportedError } from '../../errors.ts';
import { GuestMemfd } from '../guest-memfd.ts';
import { expectHandle, nativeOf } from '../handle.ts';
import { HostMapping } from '../host-mapping.ts';
import { VmCapabilities } from './capabilities.ts';
import { SlotIndex } from './slot-index.ts';

/** A memslot as KVM_SET_USER_MEMORY_REGION takes it. */
export interface UserMemoryRegion {
  /** 0 to KVM_CAP_NR_MEMSLOTS - 1; the upper 16 bits choose the address space (1 is SMM, where there is one). */
  readonly slot: number;
  /** A multiple of 4096. */
  readonly gpa: bigint;
  /** In bytes, a multiple of 4096. 0 deletes the slot. */
  readonly size: number;
  /** What the guest's accesses reach; stays alive while the slot is there. */
  readonly mapping?: HostMapping;
  /** Where in the mapping the slot begins: in bytes, a multiple of 4096; default 0. */
  readonly mappingOffset?: number;
  /** KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY; default 0. */
  readonly flags?: number;
}

/** A memslot as KVM_SET_USER_MEMORY_REGION2 takes it: with a guest_memfd where wanted. */
export interface UserMemoryRegion2 extends UserMemoryRegion {
  /** The private side of the slot; of this VM. KVM_MEM_GUEST_MEMFD is set by itself. */
  readonly guestMemfd?: GuestMemfd;
  /** Where in the guest_memfd the slot begins: in bytes, a multiple of 4096; default 0n. */
  readonly guestMemfdOffset?: bigint;
  /**
   * Take a mapping that is not of the guest_memfd itself at the same offset, though the host can map the guest_memfd.
   * The guest then uses the guest_memfd, and KVM itself (when it emulates an instruction) the mapping. Default: false.
   */
  readonly allowForeignMapping?: boolean;
}

/** A slot as it was set through this handle. */
export interface Memslot {
  readonly slot: number;
  readonly gpa: bigint;
  readonly size: number;
  readonly flags: number;
  readonly mapping: HostMapping | undefined;
  readonly mappingOffset: number;
  readonly guestMemfd: GuestMemfd | undefined;
  readonly guestMemfdOffset: bigint;
}

const REGION_KEYS = ['slot', 'gpa', 'size', 'mapping', 'mappingOffset', 'flags'] as const;
const MAX_PAGES = 2 ** 31 - 1;
const KNOWN_FLAGS = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD;
const hex = (value: bigint): string => `0x${value.toString(16)}`;

export abstract class VmMemslots extends VmCapabilities {
  readonly #slots = new Map<number, Memslot>();
  /** The same by address space (the upper 16 bits of the number), in the order of their addresses. */
  readonly #placed = new Map<number, SlotIndex>();
  #freeMemslot = 0;
  #limit: number | undefined;

  /** The slots that were set through this handle, by number. A snapshot of each; the map itself is live. */
  get memslots(): ReadonlyMap<number, Memslot> {
    return this.#slots;
  }

  /** The lowest number that no slot in {@link memslots} has. */
  get freeMemslot(): number {
    return this.#freeMemslot;
  }

  /**
   * Sets or deletes a slot without private memory. The mapping is kept alive until the slot is gone.
   *
   * @throws RangeError for a range that overlaps another slot, is not aligned, or ends past the mapping or 2^52.
   * @throws KvmSystemError where the kernel refuses it all the same. *KVM_SET_USER_MEMORY_REGION*
   */
  setUserMemoryRegion(region: UserMemoryRegion): void {
    if (typeof region === 'object' && region !== null && 'guestMemfd' in region) {
      throw new TypeError('Expected no guestMemfd for KVM_SET_USER_MEMORY_REGION: bind it by setUserMemoryRegion2()');
    }
    this.#set(1, checkOptions<UserMemoryRegion2>('region', region, REGION_KEYS) as UserMemoryRegion2);
  }

  /**
   * Sets or deletes a slot, with a guest_memfd as its private side where one is given. Such a slot can be made and
   * deleted, but not changed. Where a guest_memfd that can be mapped is bound without a mapping, its own mapping is
   * used, as the kernel demands: hardware and KVM's emulator would see different bytes otherwise.
   *
   * Needs KVM_CAP_USER_MEMORY2 (Linux 6.8); with a guest_memfd, KVM_CAP_GUEST_MEMFD on this VM.
   *
   * @throws RangeError for overlaps (with the other slot's number), alignment, and ends past the mapping, the
   * guest_memfd or 2^52.
   * @throws TypeError for a guest_memfd of another VM.
   * @throws KvmSystemError where the kernel refuses it all the same. *KVM_SET_USER_MEMORY_REGION2*
   */
  setUserMemoryRegion2(region: UserMemoryRegion2): void {
    const keys = [...REGION_KEYS, 'guestMemfd', 'guestMemfdOffset', 'allowForeignMapping'] as const;
    this.#set(2, checkOptions<UserMemoryRegion2>('region', region, keys) as UserMemoryRegion2);
  }

  /** Deletes a slot: the guest loses the range at once. What was behind it can be closed or used again. */
  deleteMemslot(slot: number): void {
    u32('slot', slot);
    const known = this.#slots.get(slot);
    this.check(() => this.native.setUserMemoryRegion(1, slot, 0, known?.gpa ?? 0n, 0n, null, 0n, null, 0n), {
      state: `deleting slot ${slot}`,
      hint: 'there is no such slot',
    });
    if (known !== undefined) this.#space(slot).delete(known);
    this.#slots.delete(slot);
    if (slot < this.#freeMemslot) this.#freeMemslot = slot;
  }

  #set(version: 1 | 2, region: UserMemoryRegion2): void {
    this.expectOpen();
    if (region.size === 0) {
      this.deleteMemslot(region.slot);
      return;
    }
    const wanted = this.#checked(region);
    const { slot, gpa, size, flags, guestMemfd } = wanted;
    let { mapping } = wanted;
    // A mapping made here is held by the kernel's slot alone; the handle would only delay its end.
    const own =
      mapping === undefined && guestMemfd !== undefined && guestMemfd.hostMapped
        ? guestMemfd.map(wanted.guestMemfdOffset, size)
        : undefined;
    mapping ??= own;
    try {
      this.native.setUserMemoryRegion(
        version,
        slot,
        flags,
        gpa,
        BigInt(size),
        mapping === undefined ? null : nativeOf(mapping),
        BigInt(wanted.mappingOffset),
        guestMemfd === undefined ? null : nativeOf(guestMemfd),
        wanted.guestMemfdOffset,
      );
      const old = this.#slots.get(slot);
      if (old !== undefined) this.#space(slot).delete(old);
      this.#space(slot).add(wanted);
      this.#slots.set(slot, wanted);
      while (this.#slots.has(this.#freeMemslot)) this.#freeMemslot++;
    } catch (error) {
      this.#expectUnbound(wanted);
      throw this.wrap(error, { state: describe(wanted), hint: this.#hint(wanted) });
    } finally {
      own?.close();
    }
  }

  #checked(region: UserMemoryRegion2): Memslot {
    const { slot, gpa, size, mapping, mappingOffset = 0, guestMemfd, guestMemfdOffset = 0n, flags = 0 } = region;
    u32('region.slot', slot);
    const limit = (this.#limit ??= this.checkExtension('KVM_CAP_NR_MEMSLOTS'));
    if ((slot & 0xffff) >= limit) throw rangeError(`a slot below ${limit} (KVM_CAP_NR_MEMSLOTS)`, 'region.slot', slot);
    pageAlignedSize('region.size', size);
    if (size / 4096 > MAX_PAGES) throw rangeError(`at most ${MAX_PAGES} pages in one slot`, 'region.size', size);
    pageAlignedGpaRange(gpa, size, 'region.gpa', 'region.size');
    if ((u32('region.flags', flags) & ~KNOWN_FLAGS) !== 0) {
      throw rangeError(
        'KVM_MEM_LOG_DIRTY_PAGES (1), KVM_MEM_READONLY (2) and KVM_MEM_GUEST_MEMFD (4) alone',
        'region.flags',
        flags,
      );
    }
    if (mapping !== undefined) {
      expectHandle(HostMapping, 'a HostMapping', 'region.mapping', mapping);
      const { length } = mapping;
      if (pageAlignedOffset('region.mappingOffset', mappingOffset) >= length) {
        throw rangeError(`an offset inside the mapping's ${length} bytes`, 'region.mappingOffset', mappingOffset);
      }
      if (mappingOffset + size > length) {
        const most = length - mappingOffset;
        throw rangeError(
          `at most ${most} bytes (what the mapping holds from offset ${mappingOffset})`,
          'region.size',
          size,
        );
      }
    } else if (mappingOffset !== 0) {
      throw new TypeError('Expected no region.mappingOffset without region.mapping');
    }
    const wanted: Memslot = {
      slot,
      gpa,
      size,
      mapping,
      mappingOffset,
      guestMemfd,
      guestMemfdOffset,
      flags: guestMemfd === undefined ? flags : flags | KVM_MEM_GUEST_MEMFD,
    };
    if (guestMemfd !== undefined) {
      this.#checkGuestMemfd(wanted, guestMemfd);
      const foreign = boolean('region.allowForeignMapping', region.allowForeignMapping ?? false);
      if (!foreign) checkOwnMapping(wanted, guestMemfd);
    } else {
      this.#checkPlain(wanted);
    }
    this.#checkOverlap(wanted);
    return wanted;
  }

  #checkPlain(wanted: Memslot): void {
    const { slot, flags, mapping } = wanted;
    const old = this.#slots.get(slot);
    if (old?.guestMemfd !== undefined) {
      throw new KvmStateError(`Slot ${slot} has a guest_memfd, and such a slot cannot be changed: delete it first`);
    }
    if ((flags & KVM_MEM_GUEST_MEMFD) !== 0) {
      throw new TypeError('Expected region.guestMemfd with KVM_MEM_GUEST_MEMFD in region.flags but received none');
    }
    if (mapping === undefined) {
      throw new TypeError(`Expected a mapping for region.mapping of slot ${slot} but received none`);
    }
    if (old !== undefined) checkChange(old, wanted);
  }

  #checkGuestMemfd(wanted: Memslot, guestMemfd: GuestMemfd): void {
    const { slot, size, flags, guestMemfdOffset: offset } = wanted;
    expectHandle(GuestMemfd, 'a GuestMemfd', 'region.guestMemfd', guestMemfd);
    if ((guestMemfd.vm as VmMemslots) !== this) {
      throw new TypeError(
        'Expected a guest_memfd of this VM for region.guestMemfd but received one of another: a ' +
          'guest_memfd belongs to the VM that made it. To share memory between VMs, map one that can be mapped, and give ' +
          'the mapping to the other VM as region.mapping',
      );
    }
    if (u64('region.guestMemfdOffset', offset) % 4096n !== 0n) {
      throw rangeError('a multiple of 4096', 'region.guestMemfdOffset', offset);
    }
    if (offset >= guestMemfd.size) {
      throw rangeError(
        `an offset inside the guest_memfd's ${guestMemfd.size} bytes`,
        'region.guestMemfdOffset',
        offset,
      );
    }
    if (offset + BigInt(size) > guestMemfd.size) {
      throw rangeError(
        `a size that ends within the guest_memfd (${guestMemfd.size} bytes) from offset ${offset} on`,
        'region.size',
        size,
      );
    }
    const refused = flags & (KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES);
    if (refused !== 0) {
      throw new KvmUnsupportedError(
        `Slot ${slot} has a guest_memfd, and KVM takes no such slot that is ` +
          ((refused & KVM_MEM_READONLY) !== 0 ? 'read-only' : 'logged for dirty pages'),
        'KVM_MEM_GUEST_MEMFD',
      );
    }
    if (this.#slots.has(slot)) {
      throw new KvmStateError(
        `Slot ${slot} is there already, and a slot with a guest_memfd can only be made new: delete it first`,
      );
    }
  }

  /** What the kernel calls EINVAL, with the slot that is in the way. Looked for only then: there may be very many. */
  #expectUnbound({ slot, size, guestMemfd, guestMemfdOffset: offset }: Memslot): void {
    if (guestMemfd === undefined) return;
    for (const other of this.#slots.values()) {
      if (
        other.slot !== slot &&
        other.guestMemfd === guestMemfd &&
        offset < other.guestMemfdOffset + BigInt(other.size) &&
        other.guestMemfdOffset < offset + BigInt(size)
      ) {
        throw rangeError(
          `a range of the guest_memfd that is not bound yet (slot ${other.slot} has ` +
            `${hex(other.guestMemfdOffset)} to ${hex(other.guestMemfdOffset + BigInt(other.size))})`,
          'region.guestMemfdOffset',
          offset,
        );
      }
    }
  }

  #checkOverlap(wanted: Memslot): void {
    const other = this.#space(wanted.slot).overlapping(wanted);
    if (other === undefined) return;
    throw rangeError(
      `a range that no other slot has (slot ${other.slot} has ${hex(other.gpa)} to ` +
        `${hex(other.gpa + BigInt(other.size))})`,
      'region.gpa',
      wanted.gpa,
    );
  }

  #space(slot: number): SlotIndex {
    let space = this.#placed.get(slot >>> 16);
    if (space === undefined) this.#placed.set(slot >>> 16, (space = new SlotIndex()));
    return space;
  }

  #hint({ slot, guestMemfd, flags }: Memslot): string {
    if (guestMemfd !== undefined && this.checkExtension('KVM_CAP_GUEST_MEMFD') === 0) {
      return (
        'a VM of this type has no private memory on this kernel (KVM_CAP_GUEST_MEMFD is 0 on the VM), so a ' +
        'guest_memfd can be made but not bound: use a VM of type sw-protected, or Linux 6.18'
      );
    }
    const old = this.#slots.get(slot);
    if (old !== undefined) {
      return 'of a slot that is there, only the gpa and KVM_MEM_LOG_DIRTY_PAGES can change: delete it to change more';
    }
    if ((flags & KVM_MEM_READONLY) !== 0) return 'this VM takes no read-only slots (KVM_CAP_READONLY_MEM is 0 on it)';
    if (guestMemfd !== undefined) {
      return 'another thread of this process bound this range, or a slot of that number exists';
    }
    return 'another thread of this process made an overlapping slot, or the address space of the slot does not exist';
  }
}

/** The kernel takes only a new gpa and KVM_MEM_LOG_DIRTY_PAGES for a slot that is there. */
function checkChange(old: Memslot, wanted: Memslot): void {
  const what =
    old.size !== wanted.size
      ? 'size'
      : old.mapping !== wanted.mapping || old.mappingOffset !== wanted.mappingOffset
        ? 'mapping'
        : ((old.flags ^ wanted.flags) & KVM_MEM_READONLY) !== 0
          ? 'flag KVM_MEM_READONLY'
          : undefined;
  if (what === undefined) return;
  throw new KvmStateError(
    `Slot ${old.slot} is there already, and its ${what} cannot change (only its gpa and ` +
      'KVM_MEM_LOG_DIRTY_PAGES can): delete it first',
  );
}

/** Where the guest_memfd can be mapped, the guest uses it for everything, and KVM's emulator the mapping. */
function checkOwnMapping({ slot, mapping, mappingOffset, guestMemfdOffset }: Memslot, guestMemfd: GuestMemfd): void {
  if (mapping === undefined || (guestMemfd.flags & GUEST_MEMFD_FLAG_MMAP) === 0n) return;
  const { origin } = mapping;
  if (origin?.file === guestMemfd && BigInt(origin.offset + mappingOffset) === guestMemfdOffset) return;
  throw new TypeError(
    `Expected a mapping of the guest_memfd itself at offset ${guestMemfdOffset} for region.mapping of ` +
      `slot ${slot} but received another: the guest would use the guest_memfd, and KVM the mapping when it emulates an ` +
      'instruction. Leave the mapping out, or say allowForeignMapping',
  );
}

function describe({ slot, gpa, size, flags, guestMemfd, guestMemfdOffset }: Memslot): string {
  const text = `slot ${slot}, gpa ${hex(gpa)}, size ${hex(BigInt(size))}, flags ${flags}`;
  return guestMemfd === undefined ? text : `${text}, guest_memfd offset ${hex(guestMemfdOffset)}`;
}
