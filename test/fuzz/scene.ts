/** Live objects of every class, open and closed, for one seed: what is called, and what calls are given. */
import * as lib from '../../lib/index.ts';
import { native } from '../../lib/native.ts';
import type { Random } from './random.ts';
import type { Scenery } from './generate.ts';

const PAGE = 4096;
const MEMORY = 16 * PAGE;
/** inc byte [0x2000]; out 0x10, al; in al, 0x10; hlt; jmp to the start */
const GUEST = [0xfe, 0x06, 0x00, 0x20, 0xe6, 0x10, 0xe4, 0x10, 0xf4, 0xeb, 0xf5];
// Closed in the end, so that a scene cannot fill the process.
const MOST = 160;

interface Closer {
  close(): void;
}

/** One object by the name that signatures know its class by. */
export interface Actor {
  readonly type: string;
  readonly object: object;
}

export class Scene implements Scenery {
  readonly actors: Actor[] = [];
  readonly handles: unknown[] = [];
  readonly victims: Closer[] = [];
  readonly views: Uint8Array[] = [];
  readonly #closers = new Set<Closer>();
  readonly #random: Random;

  constructor(random: Random, layer: 'native' | 'lib') {
    this.#random = random;
    if (layer === 'native') this.#natives();
    else this.#library();
    // What only looks like a handle.
    const first = this.actors[0]!.object;
    this.handles.push(
      Object.create(first),
      Object.create(Object.getPrototypeOf(first) as object),
      new Proxy(first, {}),
    );
  }

  byType(name: string): readonly unknown[] {
    const wanted = ALIASES[name] ?? [name];
    return this.actors.filter(({ type }) => wanted.includes(type)).map(({ object }) => object);
  }

  /** What a call returned, if it is to be closed; more of the same to call and to pass. */
  adopt(type: string, object: object): void {
    if (typeof (object as Closer).close === 'function') this.#closers.add(object as Closer);
    if (this.actors.length < MOST) {
      this.actors.push({ type, object });
      this.handles.push(object);
    }
  }

  /** In any order; children and parents alike. Returns what closing threw. */
  close(): unknown[] {
    const failures: unknown[] = [];
    for (const closer of shuffled(this.#random, [...this.#closers])) {
      try {
        closer.close();
      } catch (error) {
        failures.push(error);
      }
    }
    return failures;
  }

  #add<T extends object>(type: string, object: T): T {
    this.adopt(type, object);
    return object;
  }

  /** Closed at once where told so; otherwise some getter may do it any time. */
  #fated<T extends Closer>(type: string, object: T, closed = false): T {
    this.#add(type, object);
    if (closed) object.close();
    else this.victims.push(object);
    return object;
  }

  #natives(): void {
    const addon = native();
    const system = this.#add('NativeSystem', addon.openSystem('/dev/kvm'));
    for (const second of [false, true]) {
      const vm = this.#add('NativeVm', system.createVm(0n));
      const memory = this.#add(
        'NativeMapping',
        addon.mapAnonymous(BigInt(MEMORY), { shared: second, hugetlb: 0, noreserve: false }),
      );
      vm.setUserMemoryRegion(1, 0, 1, 0n, BigInt(MEMORY), memory, 0n, null, 0n);
      const bytes = new Uint8Array(memory.buffer(0n, MEMORY));
      bytes.set(GUEST);
      const vcpu = this.#add('NativeVcpu', vm.createVcpu(0));
      if (!second) vcpu.onComplete(() => undefined);
      this.views.push(bytes, new Uint8Array(vcpu.run));
      this.#fated('NativeReadable', vm.getStatsFd());
      if (second) this.victims.push(vm, memory, vcpu);
      attempt(() => this.#fated('NativeGuestMemfd', vm.createGuestMemfd(BigInt(MEMORY), second ? 3n : 0n)));
      attempt(() => this.#fated('NativeDevice', vm.createDevice(4, 0)));
    }
    this.#fated('NativeEventfd', addon.createEventfd(0, false));
    this.#fated('NativeEventfd', addon.createEventfd(1, true), true);
    const memfd = this.#fated('NativeHostFile', addon.createMemfd('fuzz', 0, true));
    memfd.ftruncate(BigInt(MEMORY));
    this.#fated('NativeMapping', addon.mapFile(memfd, 0n, BigInt(MEMORY), true, true));
    this.#fated('NativeMapping', addon.mapAnonymous(4096n, { shared: false, hugetlb: 0, noreserve: true }), true);
    this.actors.push({ type: 'NativeAddon', object: addon });
  }

  #library(): void {
    const kvm = this.#add('Kvm', lib.Kvm.open());
    const type = kvm.vmTypes().includes('sw-protected') && this.#random.oneIn(2) ? 'sw-protected' : 'default';
    const vm = this.#add('Vm', kvm.createVm(type));
    const memory = this.#add('GuestMemory', new lib.GuestMemory(vm));
    this.#fated('MemoryRegion', closable(memory.add({ gpa: 0n, size: MEMORY })));
    attempt(() => this.#add('MemoryRegion', memory.add({ gpa: BigInt(MEMORY), size: MEMORY, private: true })));
    attempt(() =>
      this.#add(
        'MemoryRegion',
        memory.add({ gpa: BigInt(2 * MEMORY), size: MEMORY, backing: { kind: 'guest-memfd' } }),
      ),
    );
    memory.write(0n, Uint8Array.from(GUEST));
    // Not by the name of its class, which an interface of options has too.
    this.#add('memory.attributes', memory.attributes);
    this.views.push(memory.view(0n, MEMORY));

    const bare = this.#add('Vm', kvm.createVm());
    if (this.#random.oneIn(3)) attempt(() => bare.enableDirtyLogRing(65_536));
    const mapping = this.#add('HostMapping', lib.HostMapping.anonymous(MEMORY));
    bare.setUserMemoryRegion({ slot: 0, gpa: 0n, size: MEMORY, mapping });
    mapping.write(0, Uint8Array.from(GUEST));
    if (this.#random.oneIn(3)) attempt(() => bare.createIrqchip());
    for (const [owner, id] of [
      [vm, 0],
      [vm, 1],
      [bare, 0],
    ] as const) {
      const vcpu = this.#add('Vcpu', owner.createVcpu(id));
      this.actors.push({ type: 'SyncRegs', object: vcpu.syncRegs });
      const sregs = vcpu.getSregs();
      vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
      vcpu.updateRegs({ rip: 0n, rflags: 2n });
      if (id === 1) this.victims.push(vcpu);
      attempt(() => this.#add('CoalescedRing', owner.coalescedRing(vcpu)));
      attempt(() => this.#add('DirtyRing', new lib.DirtyRing(vcpu, 65_536)));
      this.actors.push({ type: 'VcpuToken', object: vcpu.share() });
    }
    this.actors.push({ type: 'VmToken', object: bare.share() }, { type: 'HostMappingToken', object: mapping.share() });
    this.victims.push(bare, mapping);
    this.#fated('Stats', bare.getStatsFd());
    attempt(() => this.#fated('GuestMemfd', vm.createGuestMemfd(MEMORY)));
    attempt(() => this.#fated('GuestMemfd', bare.createGuestMemfd(MEMORY, { flags: 3n })));
    attempt(() => this.#fated('Device', bare.createDevice(4)));
    this.#fated('Eventfd', lib.Eventfd.create());
    this.#fated('Eventfd', lib.Eventfd.create({ initial: 3, semaphore: true }), true);
    const file = this.#fated('HostFile', lib.HostFile.memfd(MEMORY));
    this.#fated('HostMapping', file.map());
    this.#fated('HostMapping', lib.HostMapping.anonymous(PAGE), true);
    for (const name of ['Kvm', 'Vm', 'Vcpu', 'GuestMemfd', 'Device', 'HostMapping', 'HostFile', 'Eventfd'] as const) {
      this.handles.push(Object.create(lib[name].prototype));
    }
    this.actors.push({ type: 'the package', object: lib });
    for (const name of ['Kvm', 'Vm', 'Vcpu', 'HostMapping', 'HostFile', 'Eventfd'] as const) {
      this.actors.push({ type: name, object: lib[name] });
    }
  }
}

// What fits where an interface, a base class or a port is asked for.
const FILES = ['HostFile', 'GuestMemfd'];
const ALIASES: Readonly<Record<string, readonly string[]>> = {
  VmPort: ['Vm'],
  VcpuPort: ['Vcpu'],
  MappingPort: ['HostMapping'],
  GuestMemfdPort: ['GuestMemfd'],
  Handle: FILES,
  DirtyRingVcpu: ['Vcpu'],
  CoalescedRingVcpu: ['Vcpu'],
  VmCapabilities: ['Vm'],
  NativeMemoryFile: ['NativeHostFile', 'NativeGuestMemfd'],
};

function attempt(make: () => unknown): void {
  try {
    make();
  } catch (error) {
    // Not on this host, or not on this VM type.
    if (!(error instanceof Error)) throw error;
  }
}

function closable(region: lib.MemoryRegion): lib.MemoryRegion & Closer {
  return Object.assign(region, { close: () => region.remove() });
}

export function shuffled<T>(random: Random, list: T[]): T[] {
  for (let at = list.length - 1; at > 0; at--) {
    const other = random.below(at + 1);
    [list[at], list[other]] = [list[other]!, list[at]!];
  }
  return list;
}
