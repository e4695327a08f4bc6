/** One memslot and what is behind it. */
import { PAGE_SIZE } from '../arguments.ts';
import { HostSide } from './host-side.ts';
import type { OpenedBacking, BackingKind } from './backing.ts';
import { privatePagesOf } from './private-pages.ts';
import type { PrivatePages } from './private-pages.ts';
import type { GuestMemfdPort, MappingPort } from './ports.ts';

/** What stays when a region goes. */
export interface RemoveOptions {
  /**
   * Leave the guest_memfd open, with its content, and the private attributes as they are, so that it can be bound again
   * (`private: { guestMemfd, offset }`). Default: true for a guest_memfd that the caller passed in, false for one that
   * the region made. A kept guest_memfd is the caller's to close.
   */
  readonly keepGuestMemfd?: boolean;
}

export interface RegionOptions {
  readonly slot: number;
  readonly gpa: bigint;
  readonly size: number;
  readonly readonly: boolean;
  readonly logDirty: boolean;
  readonly opened: OpenedBacking;
  readonly remove: (region: MemoryRegion, options: RemoveOptions) => void;
}

/** A range of guest physical addresses with its memslot, made by `memory.add()`. */
export class MemoryRegion {
  readonly slot: number;
  readonly gpa: bigint;
  /** In bytes. */
  readonly size: number;
  readonly backing: BackingKind;
  /** The guest cannot write (its writes become `mmio` exits). The host can. */
  readonly readonly: boolean;
  /** The kernel logs which pages are written: `vm.getDirtyLog(region.slot)`. */
  readonly logDirty: boolean;
  /** What the host sees: a handle of the region's own, closed with it. */
  readonly mapping: MappingPort | undefined;
  readonly guestMemfd: GuestMemfdPort | undefined;
  /** Where in the guest_memfd the region starts, in bytes. */
  readonly guestMemfdOffset: bigint;
  /**
   * The guest_memfd serves every access and the host sees the same pages: there is nothing to convert. Otherwise a
   * region with a guest_memfd has two sides, which hold separate copies.
   */
  readonly oneMemory: boolean;
  /** @internal The gpa as a number. */
  readonly start: number;
  /** @internal */
  readonly end: number;
  /** @internal */
  readonly host: HostSide | undefined;
  /** @internal */
  readonly opened: OpenedBacking;
  readonly #remove: RegionOptions['remove'];
  #removed = false;

  constructor(options: RegionOptions) {
    const { opened } = options;
    this.slot = options.slot;
    this.gpa = options.gpa;
    this.size = options.size;
    this.readonly = options.readonly;
    this.logDirty = options.logDirty;
    this.backing = opened.kind;
    this.mapping = opened.mapping;
    this.guestMemfd = opened.guestMemfd;
    this.guestMemfdOffset = opened.guestMemfdOffset;
    this.oneMemory = opened.oneMemory;
    this.start = Number(options.gpa);
    this.end = this.start + options.size;
    // A huge page that was given back may not be had again, so memory that conversions will discard is never lent out.
    const lend = opened.granule === PAGE_SIZE || !this.convertible;
    this.host = opened.mapping && new HostSide(opened.mapping, opened.mappingOffset, options.size, { lend });
    this.opened = opened;
    this.#remove = options.remove;
  }

  /** Whether the region was taken away. */
  get removed(): boolean {
    return this.#removed;
  }

  /** Whether it has a private side beside the shared one. */
  get convertible(): boolean {
    return this.guestMemfd !== undefined && !this.oneMemory;
  }

  /** The same as `memory.remove(region)`. Idempotent. */
  remove(options: RemoveOptions = {}): void {
    this.#remove(this, options);
  }

  /** @internal */
  markRemoved(): void {
    this.#removed = true;
  }

  /** @internal What is known of the private side's pages. */
  get privatePages(): PrivatePages | undefined {
    return this.convertible ? privatePagesOf(this.guestMemfd!) : undefined;
  }

  /** @internal Offset in the guest_memfd of an address of this region. */
  privateOffset(address: number): number {
    return Number(this.guestMemfdOffset) + address - this.start;
  }
}
