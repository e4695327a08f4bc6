/** The slots of one VM and what is behind them: adding, finding, taking away. */
import { EventEmitter } from 'node:events';
import * as args from '../arguments.ts';
import { CAPS, KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY } from '../abi/index.ts';
import { KvmStateError } from '../errors.ts';
import { openBacking, release } from './backing.ts';
import type { Backing, PrivateSide } from './backing.ts';
import type { GuestMemoryEvents } from './events.ts';
import { hex, Layout } from './layout.ts';
import type { Placed as Bound } from './layout.ts';
import type { GuestMemfdPort, HostMemoryPort, MemslotRequest, VmPort } from './ports.ts';
import { MemoryRegion } from './region.ts';
import type { RemoveOptions } from './region.ts';

/** A region to add: where it is, and what is behind it. */
export interface AddOptions {
  /** A multiple of 4096, below 2^52. */
  readonly gpa: bigint;
  /** In bytes: a multiple of 4096, at most 2^31 - 1 pages. */
  readonly size: number;
  /** Default: anonymous memory. */
  readonly backing?: Backing;
  /** A private side beside the shared one, in the same slot. Default: none. */
  readonly private?: PrivateSide;
  /** What the range is at first. Default: shared, or what it was before for a guest_memfd that is bound again. */
  readonly attributes?: 'private' | 'shared';
  /** The guest cannot write. Not together with a guest_memfd. */
  readonly readonly?: boolean;
  /** The kernel logs which pages are written. Not together with a guest_memfd. */
  readonly logDirty?: boolean;
  /** Default: the lowest free one. */
  readonly slot?: number;
}

const ADD_KEYS = ['gpa', 'size', 'backing', 'private', 'attributes', 'readonly', 'logDirty', 'slot'] as const;
const MAX_PAGES = 2 ** 31 - 1;
const MAX_SLOT = 32763;

export abstract class AddressSpace extends EventEmitter<GuestMemoryEvents> {
  protected readonly vmPort: VmPort;
  protected readonly layout = new Layout<MemoryRegion>();
  readonly #host: HostMemoryPort | undefined;
  /** What of each guest_memfd is bound, by offset. */
  readonly #bound = new WeakMap<GuestMemfdPort, Layout<Bound>>();
  #hasUserMemory2: boolean | undefined;
  #closed = false;

  constructor(vm: VmPort, host: HostMemoryPort | undefined) {
    super();
    if (typeof (vm as Partial<VmPort> | undefined | null)?.setUserMemoryRegion2 !== 'function') {
      throw args.typeError('a Vm', 'vm', vm);
    }
    this.vmPort = vm;
    this.#host = host ?? vm.hostMemory;
  }

  /** All regions, in the order of their addresses. */
  get regions(): readonly MemoryRegion[] {
    return [...this.layout.regions];
  }

  /** Whether {@link close} was called. Everything else then throws `ERR_KVM_CLOSED`. */
  get closed(): boolean {
    return this.#closed;
  }

  /** The region that holds a guest physical address, if there is one. */
  region(gpa: bigint): MemoryRegion | undefined {
    return this.layout.find(Number(args.gpa('gpa', gpa)));
  }

  protected addRegion(options: AddOptions): MemoryRegion {
    this.assertOpen();
    const request = this.#check(options);
    const opened = openBacking(
      this.vmPort,
      this.#host,
      options.backing ?? { kind: 'anonymous' },
      request.size,
      options.private,
    );
    try {
      if (opened.guestMemfd !== undefined)
        this.#checkGuestMemfd(request.size, opened.guestMemfd, opened.guestMemfdOffset);
      const region = new MemoryRegion({ ...request, opened, remove: (gone, how) => this.removeRegion(gone, how) });
      this.#setSlot(region);
      this.layout.add(region);
      this.#bind(region);
      return region;
    } catch (error) {
      release(opened);
      throw error;
    }
  }

  /** In the one order that is safe: the slot first, then the views, then the memory. */
  protected removeRegion(region: MemoryRegion, options: RemoveOptions): void {
    if (!(region instanceof MemoryRegion)) throw args.typeError('a MemoryRegion', 'region', region);
    const { keepGuestMemfd = !region.opened.ownsGuestMemfd } = args.options('options', options, ['keepGuestMemfd']);
    args.boolean('keepGuestMemfd', keepGuestMemfd);
    if (region.removed) return;
    if (this.layout.find(region.start) !== region) throw new KvmStateError('The region belongs to another GuestMemory');
    this.beforeRemove(region);
    if (!this.vmPort.closed) this.vmPort.deleteMemslot(region.slot);
    region.markRemoved();
    this.layout.remove(region);
    if (region.guestMemfd !== undefined) this.#bound.get(region.guestMemfd)?.removeAt(Number(region.guestMemfdOffset));
    release(region.opened, region.opened.ownsGuestMemfd && !keepGuestMemfd);
    if (!this.vmPort.closed && !keepGuestMemfd) this.afterRemove(region);
  }

  /** May refuse: memory that is being converted cannot go away. */
  protected abstract beforeRemove(region: MemoryRegion): void;

  /** The private side is gone, so nothing of it may stay private. */
  protected abstract afterRemove(region: MemoryRegion): void;

  /** Removes all regions. Idempotent. */
  close(): void {
    if (this.#closed) return;
    // The last one first: taken from the end of the list it moves nothing.
    for (const region of [...this.layout.regions].reverse()) this.removeRegion(region, {});
    this.#closed = true;
  }

  /** The same as {@link close}. */
  [Symbol.dispose](): void {
    this.close();
  }

  protected assertOpen(): void {
    if (this.#closed) throw new KvmStateError('This guest memory is closed', 'ERR_KVM_CLOSED');
  }

  #check(options: AddOptions): { gpa: bigint; size: number; readonly: boolean; logDirty: boolean; slot: number } {
    const given = args.options('options', options, ADD_KEYS);
    args.pageAlignedGpaRange(given.gpa, given.size);
    const gpa = given.gpa!;
    const size = args.pageAlignedSize('size', given.size);
    if (size / args.PAGE_SIZE > MAX_PAGES) throw args.rangeError('at most 2^31 - 1 pages (one slot)', 'size', size);
    const readonly = args.boolean('readonly', given.readonly ?? false);
    const logDirty = args.boolean('logDirty', given.logDirty ?? false);
    const guestMemfd = given.private !== undefined || given.backing?.kind === 'guest-memfd';
    if (guestMemfd && (readonly || logDirty)) {
      throw new TypeError(
        `Expected neither readonly nor logDirty for a region with a guest_memfd but received ` +
          `${readonly ? 'readonly' : 'logDirty'}: no kernel offers them together`,
      );
    }
    if (given.backing?.kind === 'none' && given.private === undefined) {
      throw new TypeError("Expected a private side for a region with backing 'none' but received none");
    }
    const start = Number(gpa);
    const other = this.layout.overlapping(start, start + size);
    if (other !== undefined) {
      throw new RangeError(
        `${args.expectedMessage('a range that no other region has', 'gpa', gpa)}: slot ` +
          `${other.slot} is at ${hex(other.start)}-${hex(other.end)}`,
      );
    }
    return { gpa, size, readonly, logDirty, slot: this.#slot(given.slot) };
  }

  #slot(wanted: number | undefined): number {
    const { memslots } = this.vmPort;
    if (wanted !== undefined) {
      args.uint('slot', wanted, { max: MAX_SLOT });
      if (memslots.has(wanted)) throw args.rangeError('a slot that is free', 'slot', wanted);
      return wanted;
    }
    const { freeMemslot } = this.vmPort;
    if (freeMemslot <= MAX_SLOT) return freeMemslot;
    throw new KvmStateError(`All ${MAX_SLOT + 1} slots of this VM are taken`);
  }

  /** A page of a guest_memfd can be bound only once. KVM_SET_USER_MEMORY_REGION2 would say EINVAL. */
  #checkGuestMemfd(size: number, guestMemfd: GuestMemfdPort, offset: bigint): void {
    const start = Number(offset);
    const other = this.#bound.get(guestMemfd)?.overlapping(start, start + size);
    if (other === undefined) return;
    throw new RangeError(
      `${args.expectedMessage('a range of the guest_memfd that is not bound', 'offset', offset)}: ` +
        `slot ${other.slot} has ${hex(other.start)}-${hex(other.end)} of it`,
    );
  }

  #bind({ slot, size, guestMemfd, guestMemfdOffset }: MemoryRegion): void {
    if (guestMemfd === undefined) return;
    let bound = this.#bound.get(guestMemfd);
    if (bound === undefined) this.#bound.set(guestMemfd, (bound = new Layout()));
    const start = Number(guestMemfdOffset);
    bound.add({ slot, start, end: start + size });
  }

  #setSlot({ slot, gpa, size, mapping, opened, guestMemfd, readonly, logDirty }: MemoryRegion): void {
    const flags = (readonly ? KVM_MEM_READONLY : 0) | (logDirty ? KVM_MEM_LOG_DIRTY_PAGES : 0);
    const request: MemslotRequest = {
      slot,
      gpa,
      size,
      flags,
      ...(mapping === undefined ? {} : { mapping, mappingOffset: opened.mappingOffset }),
    };
    if (guestMemfd !== undefined) {
      this.vmPort.setUserMemoryRegion2({
        ...request,
        flags: flags | KVM_MEM_GUEST_MEMFD,
        guestMemfd,
        guestMemfdOffset: opened.guestMemfdOffset,
      });
    } else if ((this.#hasUserMemory2 ??= this.vmPort.checkExtension(CAPS.KVM_CAP_USER_MEMORY2) > 0)) {
      this.vmPort.setUserMemoryRegion2(request);
    } else {
      this.vmPort.setUserMemoryRegion(request);
    }
  }
}
