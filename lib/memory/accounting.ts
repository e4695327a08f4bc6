/** How many bytes each side holds, and where both do. */
import { PAGE_SIZE } from '../arguments.ts';
import type { Attribute } from './events.ts';
import type { IntervalMap } from './interval-map.ts';
import type { Layout } from './layout.ts';
import type { Bounds } from './private-pages.ts';
import type { MemoryRegion } from './region.ts';

/** How much memory is private and shared, and how much of it holds pages; all in bytes. */
export interface MemoryAccount {
  readonly private: {
    /** Bytes of address range that have the private attribute. */
    readonly bytes: number;
    /**
     * Bytes that the guest_memfd holds, as far as can be known: `atLeast` were allocated or pre-faulted, `atMost` were
     * within reach of the guest and not punched since. The kernel does not say which of those the guest touched, and an
     * fallocate or punch on the guest_memfd past this address space is not seen.
     */
    readonly populated: Bounds;
  };
  readonly shared: {
    /** Bytes of address range without the private attribute. */
    readonly bytes: number;
    /** Bytes of the host mapping that are resident, wherever the attribute points. *mincore* */
    readonly populated: number;
  };
  /** Bytes of address range where both sides hold pages: memory that is paid for twice. */
  readonly doubled: Bounds;
}

/** One range of the picture: a region, or the part of it with one attribute. */
export interface MemoryRange extends MemoryAccount {
  readonly gpa: bigint;
  readonly size: number;
  readonly region: MemoryRegion;
  readonly state: Attribute;
}

export function accountOf(
  attributes: IntervalMap<Attribute>,
  region: MemoryRegion,
  start: number,
  end: number,
): MemoryAccount {
  const bytes = attributes.total(start / PAGE_SIZE, end / PAGE_SIZE, 'private') * PAGE_SIZE;
  const resident = (from: number, length: number): number => region.host?.resident(from - region.start, length) ?? 0;
  const doubled = { atLeast: 0, atMost: 0 };
  const base = region.privateOffset(start) - start;
  for (const held of region.privatePages?.held(base + start, end - start) ?? []) {
    const both = resident(held.offset - base, held.length);
    doubled.atMost += both;
    if (held.certain) doubled.atLeast += both;
  }
  return {
    private: { bytes, populated: region.privatePages?.bounds(base + start, end - start) ?? { atLeast: 0, atMost: 0 } },
    shared: { bytes: end - start - bytes, populated: resident(start, end - start) },
    doubled,
  };
}

export function sumOf(accounts: readonly MemoryAccount[]): MemoryAccount {
  const sum = (pick: (account: MemoryAccount) => number): number =>
    accounts.reduce((total, each) => total + pick(each), 0);
  const bounds = (pick: (account: MemoryAccount) => Bounds): Bounds => ({
    atLeast: sum((each) => pick(each).atLeast),
    atMost: sum((each) => pick(each).atMost),
  });
  return {
    private: { bytes: sum((each) => each.private.bytes), populated: bounds((each) => each.private.populated) },
    shared: { bytes: sum((each) => each.shared.bytes), populated: sum((each) => each.shared.populated) },
    doubled: bounds((each) => each.doubled),
  };
}

/** All ranges in the order of their addresses, cut where the region or the state changes. */
export function rangesOf(attributes: IntervalMap<Attribute>, layout: Layout<MemoryRegion>): MemoryRange[] {
  return layout.regions.flatMap((region) =>
    attributes.intervals(region.start / PAGE_SIZE, region.end / PAGE_SIZE).map(({ start, end, value }) => ({
      gpa: BigInt(start * PAGE_SIZE),
      size: (end - start) * PAGE_SIZE,
      region,
      state: value,
      ...accountOf(attributes, region, start * PAGE_SIZE, end * PAGE_SIZE),
    })),
  );
}
