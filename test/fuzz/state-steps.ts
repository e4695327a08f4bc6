/**
 * The steps of the stateful fuzzer. A step is a few numbers, taken modulo what there is at that moment: so every list of
 * steps means something, and any step may be dropped from it.
 */
import { HostMapping } from '../../lib/index.ts';
import type { AddOptions, GuestMemfd, Kvm, VmTypeName } from '../../lib/index.ts';
import { AREA, AT, Machine, PAGE } from './machine.ts';
import { ModelVm, PAGES, punch, store } from './model.ts';
import type { ModelRegion, Policy, Side, Store } from './model.ts';
import { Random } from './random.ts';

export type Step = readonly [kind: StepKind, a: number, b: number, c: number, d: number];

const POLICIES: readonly Policy[] = ['both', 'both', 'shared', 'private', 'none'];
const MOST_SLOTS = 10;

/** What a machine has that its slots only borrow. */
interface Owned<T> {
  readonly handle: T;
  readonly store: Store;
}

export interface World {
  readonly kvm: Kvm;
  readonly type: VmTypeName;
  /** Slots have a private side beside the shared one. */
  readonly convertible: boolean;
  machine: Machine;
  model: ModelVm;
  mappings: Owned<HostMapping>[];
  guestMemfds: Owned<GuestMemfd>[];
}

export function openWorld(kvm: Kvm, type: VmTypeName): World {
  return {
    kvm,
    type,
    convertible: type !== 'default',
    machine: new Machine(kvm, type),
    model: new ModelVm(),
    mappings: [],
    guestMemfds: [],
  };
}

const gpaOf = (page: number): bigint => BigInt(AREA + page * PAGE);
const range = (first: number, count: number): { gpa: bigint; size: number } => ({
  gpa: gpaOf(first),
  size: count * PAGE,
});
const firstOf = (a: number): number => a % PAGES;
const countOf = (a: number, b: number): number => 1 + (b % Math.min(6, PAGES - firstOf(a)));

/** Each tells the machine and the model the same, and throws where the two differ. */
const STEPS = {
  add(world, a, b, c, d) {
    const { machine, model } = world;
    const [first, count] = [firstOf(a), countOf(a, b)];
    if (model.regions.length >= MOST_SLOTS) return;
    const made = describeSlot(world, first, count, c, d);
    if (made === undefined) return;
    const { options, region, attributes } = made;
    const taken =
      !model.free(first, count) ||
      (region.oneMemory && model.bound(region.shared, region.sharedAt, count)) ||
      (region.side !== undefined && model.bound(region.side, region.sideAt, count));
    if (taken) return refused('add', () => machine.memory.add(options), 'RangeError');
    machine.memory.add(options);
    model.add(region, attributes);
  },
  remove({ machine, model }, a, b) {
    const region = model.regions[a % Math.max(1, model.regions.length)];
    if (region === undefined) return;
    const actual = machine.memory.region(gpaOf(region.first))!;
    // Kept, a guest_memfd that the region made would be nobody's here.
    const keep = region.ownsSide ? false : b % 2 === 0;
    machine.memory.remove(actual, b % 3 === 0 && !region.ownsSide ? {} : { keepGuestMemfd: keep });
    model.remove(region, b % 3 === 0 && !region.ownsSide ? true : keep);
  },
  guestRead({ machine, model }, a) {
    guestAccess(machine, model, a % PAGES, undefined);
  },
  guestWrite({ machine, model }, a, b) {
    guestAccess(machine, model, a % PAGES, b % 256);
  },
  hostWrite({ machine, model }, a, b, c) {
    const page = a % PAGES;
    const region = model.at(page);
    const bytes = Uint8Array.of(b % 256);
    const write = (): void =>
      machine.memory.write(gpaOf(page) + BigInt(AT), bytes, c % 2 === 0 ? { side: 'shared' } : {});
    if (region === undefined) return refused('write', write, 'RangeError');
    if (model.attributes[page] === 'private' && c % 2 !== 0) return refused('write', write, 'ERR_KVM_PRIVATE');
    write();
    const [to, at] = model.sharedPlace(region, page);
    to[at] = b % 256;
  },
  async convert({ machine, model }, a, b, c, d) {
    const [first, count, to] = [firstOf(a), countOf(a, b), c % 2 === 0 ? 'private' : 'shared'] as const;
    const discard = POLICIES[d % POLICIES.length]!;
    if (closedSide(model, first, count)) return;
    const options = { ...range(first, count), to, discard };
    const call = async (): Promise<unknown> =>
      d % 3 === 0 ? machine.memory.convertAsync(options) : machine.memory.convert(options);
    if (!model.canConvert(first, count, to)) return refusedLater('convert', call);
    await call();
    model.convert(first, count, to, discard);
  },
  async discard({ machine, model }, a, b, c, d) {
    const [first, count, side] = [firstOf(a), countOf(a, b), c % 2 === 0 ? 'private' : 'shared'] as const;
    if (closedSide(model, first, count)) return;
    const options = { ...range(first, count), side };
    const call = async (): Promise<unknown> =>
      d % 3 === 0 ? machine.memory.discardAsync(options) : machine.memory.discard(options);
    if (model.covering(first, count) === undefined) return refusedLater('discard', call);
    await call();
    model.discard(first, count, side);
  },
  async allocate({ machine, model }, a, b, _c, d) {
    const [first, count] = [firstOf(a), countOf(a, b)];
    if (closedSide(model, first, count)) return;
    const options = range(first, count);
    const call = async (): Promise<unknown> =>
      d % 3 === 0 ? machine.memory.allocateAsync(options) : machine.memory.allocate(options);
    if (model.covering(first, count) === undefined) return refusedLater('allocate', call);
    await call();
    model.allocate(first, count);
  },
  async prefault({ machine, model }, a, b) {
    const [first, count] = [firstOf(a), countOf(a, b)];
    const call = async (): Promise<unknown> =>
      machine.memory.prefault({ ...range(first, count), vcpus: [machine.prefaulter] });
    if (machine.vm.checkExtension('KVM_CAP_PRE_FAULT_MEMORY') === 0) return refusedLater('prefault', call);
    // A hole, or a page that cannot be had, ends it halfway: then nothing can be said of the rest.
    const pages = Array.from({ length: count }, (_, at) => first + at);
    if (closedSide(model, first, count) || pages.some((page) => model.at(page) === undefined)) return;
    if (pages.some((page) => model.attributes[page] === 'private' && model.at(page)!.side === undefined)) return;
    await call();
    for (const page of pages) {
      if (model.attributes[page] === 'private') model.allocate(page, 1);
      else model.at(page)!.read.add(page - model.at(page)!.first);
    }
  },
  /** Past the address space, on the file itself. */
  guestMemfd({ guestMemfds }, a, b, c, d) {
    const owned = guestMemfds[a % Math.max(1, guestMemfds.length)];
    if (owned === undefined || !owned.store.open) return;
    const [first, count] = [firstOf(b), countOf(b, c)];
    owned.store.touched = true;
    if (d % 2 === 0) {
      owned.handle.punchHole(first * PAGE, count * PAGE);
      punch(owned.store, first, count);
    } else {
      owned.handle.fallocate(first * PAGE, count * PAGE);
      for (let page = first; page < first + count; page++) owned.store.allocated.add(page);
    }
  },
  makeGuestMemfd(world, a) {
    if (world.guestMemfds.length >= 3) return;
    const flags = world.convertible ? 0n : 3n;
    if (!world.convertible && (world.machine.vm.checkExtension('KVM_CAP_GUEST_MEMFD_FLAGS') & 3) !== 3) return;
    world.guestMemfds.push({ handle: world.machine.vm.createGuestMemfd(PAGES * PAGE, { flags }), store: store(PAGES) });
    if (a % 4 === 0 && world.mappings.length < 2)
      world.mappings.push({ handle: HostMapping.anonymous(PAGES * PAGE), store: store(PAGES) });
  },
  /** Also while it is in a slot: then private accesses there find nothing any more. */
  closeGuestMemfd({ guestMemfds }, a, b) {
    if (b % 3 !== 0) return;
    const [owned] = guestMemfds.splice(a % Math.max(1, guestMemfds.length), 1);
    if (owned === undefined) return;
    owned.handle.close();
    owned.store.open = false;
  },
  dirtyLog({ machine, model }, a) {
    const logged = model.regions.filter(({ logDirty }) => logDirty);
    const region = logged[a % Math.max(1, logged.length)];
    if (region === undefined) return;
    const bitmap = machine.vm.getDirtyLog(machine.memory.region(gpaOf(region.first))!.slot);
    const found = Array.from({ length: region.count }, (_, page) => page).filter(
      (page) => (bitmap[page >> 3]! >> (page & 7)) & 1,
    );
    const written = [...region.dirty].sort((one, two) => one - two);
    region.dirty.clear();
    const certain = found.filter((page) => written.includes(page) || !region.read.has(page));
    same(`the dirty log of page ${region.first}`, certain.join(), written.join());
  },
  kick({ machine }) {
    machine.kickBefore();
  },
  async spin({ machine }) {
    if (machine.spinning) await machine.stopSpinning();
    else machine.startSpinning();
  },
  async startAgain(world, a) {
    if (a % 4 !== 0) return;
    await closeWorld(world, a);
    Object.assign(world, {
      machine: new Machine(world.kvm, world.type),
      model: new ModelVm(),
      mappings: [],
      guestMemfds: [],
    });
  },
} satisfies Record<string, (world: World, a: number, b: number, c: number, d: number) => unknown>;

export type StepKind = keyof typeof STEPS;

// What memory is about comes more often than what ends it.
const WEIGHTS: Readonly<Partial<Record<StepKind, number>>> = {
  add: 6,
  remove: 2,
  guestRead: 6,
  guestWrite: 8,
  hostWrite: 5,
  convert: 6,
  discard: 2,
  dirtyLog: 2,
  guestMemfd: 2,
};
const BAG = (Object.keys(STEPS) as StepKind[]).flatMap((kind) =>
  Array.from({ length: WEIGHTS[kind] ?? 1 }, () => kind),
);

export function generateSteps(seed: number, count: number): Step[] {
  const random = new Random(seed);
  const number = (): number => random.below(1 << 16);
  return Array.from({ length: count }, () => [random.pick(BAG), number(), number(), number(), number()] as const);
}

export async function takeStep(world: World, [kind, a, b, c, d]: Step): Promise<void> {
  await STEPS[kind](world, a, b, c, d);
}

export async function closeWorld({ machine, mappings, guestMemfds }: World, order: number): Promise<void> {
  const owned = [...mappings, ...guestMemfds].map(({ handle }) => handle);
  const early = order % 2 === 0;
  if (early) owned.forEach((handle) => handle.close());
  await machine.close(order >> 1);
  if (!early) owned.forEach((handle) => handle.close());
}

interface Slot {
  readonly options: AddOptions;
  readonly region: ModelRegion;
  readonly attributes: Side | undefined;
}

/** What to add: everything that may be behind a slot on this VM. */
function describeSlot(world: World, first: number, count: number, c: number, d: number): Slot | undefined {
  const base = {
    first,
    count,
    sharedAt: 0,
    side: undefined,
    sideAt: 0,
    oneMemory: false,
    ownsSide: false,
    readonly: false,
    logDirty: false,
    dirty: new Set<number>(),
    read: new Set<number>(),
    drops: true,
  };
  const options = range(first, count);
  const kinds = ['anonymous', 'shared', 'memfd', 'mapping', 'guest-memfd'] as const;
  const kind = kinds[c % kinds.length]!;
  let region: ModelRegion = { ...base, shared: store(count) };
  let backing: AddOptions['backing'] =
    kind === 'anonymous' || kind === 'shared' || kind === 'memfd' ? { kind } : undefined;
  const offset = d % (PAGES - count + 1);
  if (kind === 'mapping') {
    const owned = world.mappings[d % Math.max(1, world.mappings.length)];
    if (owned === undefined) return undefined;
    const drops = d % 2 === 0;
    backing = { kind, mapping: owned.handle, offset: offset * PAGE, discard: drops ? 'dontneed' : 'none' };
    region = { ...base, shared: owned.store, sharedAt: offset, drops };
  } else if (kind === 'guest-memfd') {
    const owned = world.guestMemfds[d % Math.max(1, world.guestMemfds.length)];
    if (world.convertible || owned === undefined || !owned.store.open) return undefined;
    backing = { kind, guestMemfd: owned.handle, offset: BigInt(offset * PAGE) };
    return {
      options: { ...options, backing },
      region: { ...base, shared: owned.store, sharedAt: offset, oneMemory: true },
      attributes: undefined,
    };
  }
  if (world.convertible && d % 4 !== 0) {
    const owned = world.guestMemfds[(d >> 4) % Math.max(1, world.guestMemfds.length)];
    const attributes = ([undefined, undefined, 'private', 'shared'] as const)[(d >> 6) % 4];
    const given = attributes === undefined ? {} : { attributes };
    if (owned === undefined || d % 4 === 1) {
      region = { ...region, side: store(count), ownsSide: true };
      return { options: { ...options, ...(backing && { backing }), private: true, ...given }, region, attributes };
    }
    region = { ...region, side: owned.store, sideAt: offset };
    const side = { guestMemfd: owned.handle, offset: BigInt(offset * PAGE) };
    return { options: { ...options, ...(backing && { backing }), private: side, ...given }, region, attributes };
  }
  const [readonly, logDirty] = [d % 5 === 0, d % 3 === 0];
  return {
    options: { ...options, ...(backing && { backing }), readonly, logDirty },
    region: { ...region, readonly, logDirty },
    attributes: undefined,
  };
}

function guestAccess(machine: Machine, model: ModelVm, page: number, write: number | undefined): void {
  const { exit, value } = machine.access(page, write);
  if (
    model.touched.has(page) &&
    exit.reason === 'memory-fault' &&
    !exit.private &&
    exit.gpa >> 12n === gpaOf(page) >> 12n
  ) {
    // Linux 6.12: the entry for MMIO that the first access left behind makes it a shared access to a private page, until
    // something else is mapped there.
    same(`the attribute of page ${page}, which the guest touched as MMIO`, model.attributes[page], 'private');
    return;
  }
  const wanted = model.guest(page, write);
  if (wanted.exit === 'hlt') model.touched.delete(page);
  else if (wanted.exit === 'mmio') model.touched.add(page);
  const what = `the guest's ${write === undefined ? 'read' : 'write'} of page ${page}`;
  same(what, exit.reason, wanted.exit);
  if (exit.reason === 'memory-fault') {
    same(`${what}, the exit`, `${exit.private} ${exit.gpa & ~0xfffn}`, `true ${gpaOf(page)}`);
  } else if (write === undefined) {
    same(`${what}, the value`, value, wanted.exit === 'hlt' ? wanted.value : 0x77);
  }
}

/** What the machine says of itself beside the model. */
export function compare({ machine: { memory }, model }: World): void {
  same('the number of regions', memory.regions.length, model.regions.length + 1);
  for (let page = 0; page < PAGES; page++) {
    same(`the attribute of page ${page}`, memory.attributes.at(gpaOf(page)), model.attributes[page]);
    const region = model.at(page);
    same(`a region at page ${page}`, memory.region(gpaOf(page)) !== undefined, region !== undefined);
    if (region === undefined) continue;
    const [bytes, at] = model.sharedPlace(region, page);
    same(`the shared side of page ${page}`, memory.read(gpaOf(page) + BigInt(AT), 1, { side: 'shared' })[0], bytes[at]);
  }
  for (const region of model.regions) account(memory.region(gpaOf(region.first))!, region);

  function account(actual: NonNullable<ReturnType<typeof memory.region>>, region: ModelRegion): void {
    const pages = Array.from({ length: region.count }, (_, at) => at);
    const bytes = pages.filter((at) => model.attributes[region.first + at] === 'private').length * PAGE;
    const found = memory.account(actual);
    same(`the private bytes of page ${region.first}`, found.private.bytes, bytes);
    if (region.side === undefined || region.side.touched || !region.side.open) return;
    const held = pages.filter((at) => region.side!.allocated.has(region.sideAt + at)).length * PAGE;
    const { atLeast, atMost } = found.private.populated;
    if (held < atLeast || held > atMost)
      throw new Error(`page ${region.first} holds ${held} private bytes, and not ${atLeast} to ${atMost}`);
  }
}

/** A guest_memfd that its owner closed is still in its slot, and no handle is left to punch it by. */
function closedSide(model: ModelVm, first: number, count: number): boolean {
  return (model.covering(first, count) ?? []).some(
    ({ side, oneMemory, shared }) => (side !== undefined && !side.open) || (oneMemory && !shared.open),
  );
}

function same(what: string, found: unknown, wanted: unknown): void {
  if (found !== wanted) throw new Error(`${what}: ${String(found)}, and not ${String(wanted)}`);
}

function refused(what: string, call: () => unknown, how: string): void {
  try {
    call();
  } catch (error) {
    const { name, code } = error as { name?: string; code?: string };
    if (name === how || code === how) return;
    throw error;
  }
  throw new Error(`${what} went through, where ${how} was to come`);
}

async function refusedLater(what: string, call: () => Promise<unknown>): Promise<void> {
  const end = await call().then(
    () => undefined,
    (error: unknown) => error,
  );
  if (end === undefined) throw new Error(`${what} went through, and should have been refused`);
  const { name, code } = end as { name?: string; code?: string };
  if (name !== 'RangeError' && !(code ?? '').startsWith('ERR_KVM')) throw end;
}
