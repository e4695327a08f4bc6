/**
 * What memory should be: per page of a small area its attribute, what the two sides hold, and which slot it is in. One
 * byte stands for the content of a page.
 */

/** Pages of the area that the guest reaches. */
export const PAGES = 16;

/** Bytes behind slots: host memory, or a guest_memfd. */
export interface Store {
  readonly bytes: Uint8Array;
  /** Pages of a guest_memfd that must be allocated. */
  readonly allocated: Set<number>;
  /** Punched or allocated past the address space, which then knows less. */
  touched: boolean;
  open: boolean;
}

export interface ModelRegion {
  readonly first: number;
  readonly count: number;
  readonly shared: Store;
  readonly sharedAt: number;
  /** Whether the shared side's pages are given back by conversions. */
  readonly drops: boolean;
  readonly side: Store | undefined;
  readonly sideAt: number;
  /** `shared` is a guest_memfd of this VM. */
  readonly oneMemory: boolean;
  readonly ownsSide: boolean;
  readonly readonly: boolean;
  readonly logDirty: boolean;
  /** What the guest wrote since the log was last read: pages of the region. */
  readonly dirty: Set<number>;
  /** What the guest or a pre-fault ever read: a kernel that maps a page for writing at a read may log it then. */
  readonly read: Set<number>;
}

export type Side = 'shared' | 'private';
export type Policy = 'both' | 'shared' | 'private' | 'none';
export type Access =
  { readonly exit: 'hlt'; readonly value: number } | { readonly exit: 'mmio' } | { readonly exit: 'memory-fault' };

export function store(pages: number): Store {
  return { bytes: new Uint8Array(pages), allocated: new Set(), touched: false, open: true };
}

export class ModelVm {
  readonly attributes: Side[] = Array.from({ length: PAGES }, () => 'shared');
  readonly regions: ModelRegion[] = [];
  /** Pages that the guest touched while nothing was there, and has not reached since. */
  readonly touched = new Set<number>();

  at(page: number): ModelRegion | undefined {
    return this.regions.find(({ first, count }) => page >= first && page < first + count);
  }

  /** The regions of a range, or undefined where it has gaps. */
  covering(first: number, count: number): ModelRegion[] | undefined {
    const found = new Set<ModelRegion>();
    for (let page = first; page < first + count; page++) {
      const region = this.at(page);
      if (region === undefined) return undefined;
      found.add(region);
    }
    return [...found];
  }

  free(first: number, count: number): boolean {
    for (let page = first; page < first + count; page++) if (this.at(page) !== undefined) return false;
    return first + count <= PAGES;
  }

  /** Whether pages of a guest_memfd are in a slot of this VM already. */
  bound(side: Store, at: number, count: number): boolean {
    return this.regions.some((region) => {
      const [mine, start] = region.oneMemory ? [region.shared, region.sharedAt] : [region.side, region.sideAt];
      return mine === side && start < at + count && at < start + region.count;
    });
  }

  add(region: ModelRegion, attributes: Side | undefined): void {
    this.regions.push(region);
    const to = region.side === undefined ? 'shared' : attributes;
    if (to !== undefined) this.attributes.fill(to, region.first, region.first + region.count);
  }

  remove(region: ModelRegion, keep: boolean): void {
    this.regions.splice(this.regions.indexOf(region), 1);
    if (!keep) this.attributes.fill('shared', region.first, region.first + region.count);
  }

  guest(page: number, write: number | undefined): Access {
    const region = this.at(page);
    const isPrivate = this.attributes[page] === 'private';
    if (isPrivate && (region?.side === undefined || !region.side.open)) return { exit: 'memory-fault' };
    if (region === undefined) return { exit: 'mmio' };
    if (write !== undefined && region.readonly) return { exit: 'mmio' };
    const [bytes, at] = this.#place(region, page, isPrivate);
    if (isPrivate) region.side!.allocated.add(at);
    if (write === undefined) {
      region.read.add(page - region.first);
      return { exit: 'hlt', value: bytes[at]! };
    }
    bytes[at] = write;
    if (region.logDirty) region.dirty.add(page - region.first);
    return { exit: 'hlt', value: write };
  }

  #place(region: ModelRegion, page: number, isPrivate: boolean): [Uint8Array, number] {
    return isPrivate ? [region.side!.bytes, region.sideAt + page - region.first] : this.sharedPlace(region, page);
  }

  sharedPlace(region: ModelRegion, page: number): [Uint8Array, number] {
    return [region.shared.bytes, region.sharedAt + page - region.first];
  }

  canConvert(first: number, count: number, to: Side): boolean {
    const regions = this.covering(first, count);
    return (
      regions !== undefined &&
      regions.every(({ oneMemory, side }) => !oneMemory && (to === 'shared' || side !== undefined))
    );
  }

  convert(first: number, count: number, to: Side, policy: Policy): void {
    for (let page = first; page < first + count; page++) {
      if (this.attributes[page] === to) continue;
      this.attributes[page] = to;
      const left = to === 'private' ? 'shared' : 'private';
      const region = this.at(page)!;
      if (region.side !== undefined && (policy === 'both' || policy === left)) this.#drop(region, page, left);
    }
  }

  discard(first: number, count: number, side: Side): void {
    for (let page = first; page < first + count; page++) this.#drop(this.at(page)!, page, side);
  }

  #drop(region: ModelRegion, page: number, side: Side): void {
    const at = page - region.first;
    if (region.oneMemory) region.shared.bytes[region.sharedAt + at] = 0;
    else if (side === 'private') punch(region.side, region.sideAt + at, 1);
    else if (region.drops) region.shared.bytes[region.sharedAt + at] = 0;
  }

  allocate(first: number, count: number): void {
    for (let page = first; page < first + count; page++) {
      const region = this.at(page)!;
      region.side?.allocated.add(region.sideAt + page - region.first);
    }
  }
}

export function punch(side: Store | undefined, at: number, count: number): void {
  for (let page = at; page < at + count; page++) {
    if (side === undefined) return;
    side.bytes[page] = 0;
    side.allocated.delete(page);
  }
}
