/** The guest physical address space of one VM: its regions, its bytes, and what of it is private. */
import * as args from '../arguments.ts';
import { KvmStateError } from '../errors.ts';
import { accountOf, rangesOf, sumOf } from './accounting.ts';
import type { MemoryAccount, MemoryRange } from './accounting.ts';
import type { AddOptions } from './address-space.ts';
import { ConvertibleMemory } from './convertible.ts';
import type { GuestMemoryOptions, RangeOptions } from './convertible.ts';
import { allLater, allNow, allocatePrivate, dropShared, punchPrivate } from './discard.ts';
import type { Piece } from './discard.ts';
import type { Attribute } from './events.ts';
import { hex } from './layout.ts';
import type { VmPort } from './ports.ts';
import { prefault } from './prefault.ts';
import type { PrefaultOptions, PrefaultResult } from './prefault.ts';
import { MemoryRegion } from './region.ts';
import type { RemoveOptions } from './region.ts';
import type { Range } from './requests.ts';

/** What range loses its pages, and on which side. */
export interface DiscardOptions extends RangeOptions {
  /** `'private'` punches a hole into the guest_memfd, `'shared'` drops the host's pages. */
  readonly side: Attribute;
}

const RANGE_KEYS = ['gpa', 'size'] as const;

/** A VM's guest physical address space: its regions, what of them is private, and every conversion. */
export class GuestMemory extends ConvertibleMemory {
  /** @param vm - its slots and memory attributes belong to this object from now on: there must be only one. */
  constructor(vm: VmPort, options: GuestMemoryOptions = {}) {
    super(vm, options);
  }

  /**
   * Adds a range of memory: opens what is behind it and sets its memslot. On failure nothing stays.
   *
   * @throws RangeError for a range that is taken; KvmStateError `ERR_KVM_FOREIGN` for a guest_memfd of another VM.
   */
  add(options: AddOptions): MemoryRegion {
    if (options?.attributes !== undefined) {
      args.oneOf('attributes', options.attributes, ['private', 'shared']);
      if (options.attributes === 'private' && options.private === undefined) {
        throw new TypeError("Expected a private side for attributes 'private' but received none; add `private: true`");
      }
    }
    const region = this.addRegion(options);
    try {
      // A range that was private for an earlier region stays so only where there is a private side again.
      const to = region.convertible ? options.attributes : 'shared';
      if (to !== undefined) {
        this.engine.now({ start: region.start, end: region.end, to, discard: 'none', source: 'explicit' });
      }
    } catch (error) {
      region.remove();
      throw error;
    }
    this.#noteReachable(region);
    this.guard.changed(region.start, region.end);
    return region;
  }

  /** Where the range was private already, no conversion has said that the guest reaches these pages now. */
  #noteReachable(region: MemoryRegion): void {
    const { start, end, privatePages } = region;
    if (privatePages === undefined) return;
    for (const interval of this.attributeMap.intervals(start / args.PAGE_SIZE, end / args.PAGE_SIZE)) {
      if (interval.value !== 'private') continue;
      const from = interval.start * args.PAGE_SIZE;
      privatePages.reachable(region.privateOffset(from), interval.end * args.PAGE_SIZE - from);
    }
  }

  /** Takes a region away: the slot first, then its views are detached, then its memory is unmapped. Idempotent. */
  remove(region: MemoryRegion, options: RemoveOptions = {}): void {
    this.removeRegion(region, options);
  }

  /**
   * Gives back the pages of one side, wherever the attribute points; the next access there finds zeros. Returns
   * bytes of range.
   */
  discard(options: DiscardOptions): number {
    const range = this.idleRange(options, ['gpa', 'size', 'side']);
    return allNow(this.#discards(range, args.oneOf('side', options.side, ['private', 'shared'])));
  }

  /** {@link discard}, with the event loop free between two steps. */
  async discardAsync(options: DiscardOptions): Promise<number> {
    const range = this.checkRange(options, ['gpa', 'size', 'side']);
    const side = args.oneOf('side', options.side, ['private', 'shared']);
    return this.engine.exclusive(range.start, range.end, () => allLater(this.#discards(range, side)));
  }

  /**
   * Allocates the private side's pages now (zeros, where there are none), so that no later access can fail for
   * want of memory.
   */
  allocate(options: RangeOptions): number {
    return allNow(this.#allocations(this.idleRange(options, RANGE_KEYS)));
  }

  /** {@link allocate}, with the event loop free between two steps. */
  async allocateAsync(options: RangeOptions): Promise<number> {
    const range = this.checkRange(options, RANGE_KEYS);
    return this.engine.exclusive(range.start, range.end, () => allLater(this.#allocations(range)));
  }

  /**
   * Maps a range for the guest before it touches it, as reads would; what is mapped already costs next to nothing.
   *
   * @throws KvmUnsupportedError without KVM_CAP_PRE_FAULT_MEMORY or two-dimensional paging; KvmSystemError with a hint.
   */
  async prefault(options: PrefaultOptions): Promise<PrefaultResult> {
    this.assertOpen();
    return prefault(
      {
        vm: this.vmPort,
        explain: (at) => {
          const region = this.layout.find(at);
          return region === undefined
            ? `guest memory is ${this.layout.describe()}`
            : `slot ${region.slot} is at ${hex(region.start)}`;
        },
        mapped: (start, end) => this.#noteMapped(start, end),
      },
      options,
    );
  }

  /** How many bytes each side holds: of everything, or of one region. */
  account(region?: MemoryRegion): MemoryAccount {
    if (region === undefined) {
      return sumOf(this.layout.regions.map((each) => accountOf(this.attributeMap, each, each.start, each.end)));
    }
    if (!(region instanceof MemoryRegion)) throw args.typeError('a MemoryRegion', 'region', region);
    if (region.removed) throw new KvmStateError('The region was removed', 'ERR_KVM_CLOSED');
    return accountOf(this.attributeMap, region, region.start, region.end);
  }

  /** All guest memory in the order of its addresses, cut where the region or the state changes: for a picture. */
  map(): MemoryRange[] {
    return rangesOf(this.attributeMap, this.layout);
  }

  protected override beforeRemove(region: MemoryRegion): void {
    this.engine.assertIdle(region.start, region.end);
  }

  protected override afterRemove(region: MemoryRegion): void {
    this.engine.now({ start: region.start, end: region.end, to: 'shared', discard: 'none', source: 'explicit' });
  }

  #discards({ start, end }: Range, side: Attribute): Piece[] {
    return this.layout.segments(start, end).flatMap((part) => {
      const of = side === 'private' || part.region.oneMemory ? punchPrivate : dropShared;
      return of(this.attributeMap, part.region, part.start, part.end) ?? [];
    });
  }

  #allocations({ start, end }: Range): Piece[] {
    return this.layout.segments(start, end).flatMap((part) => allocatePrivate(part.region, part.start, part.end) ?? []);
  }

  /** Of what pre-fault mapped, the private parts have pages now. */
  #noteMapped(start: number, end: number): void {
    for (const part of this.attributeMap.intervals(start / args.PAGE_SIZE, end / args.PAGE_SIZE)) {
      if (part.value !== 'private') continue;
      for (const { region, start: from, end: until } of this.layout.segments(
        part.start * args.PAGE_SIZE,
        part.end * args.PAGE_SIZE,
      )) {
        region.privatePages?.populated(region.privateOffset(from), until - from);
      }
    }
  }
}
