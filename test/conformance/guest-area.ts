/**
 * The memory that the conversion tests are about, from 4 GiB on: one or more slots with a private and a shared side,
 * and who converts them. {@link RawArea} does it as the kernel's own test does, call by call; the conversion engine's
 * area is in guest-engine.ts.
 */
import { HostFile, HostMapping } from '../../lib/index.ts';
import type { GuestMemfd, HypercallExit, Vm } from '../../lib/index.ts';
import { KVM_HC_MAP_GPA_RANGE, KVM_MEMORY_ATTRIBUTE_PRIVATE } from '../../lib/abi/index.ts';
import { LOW_SIZE } from './guest-code.ts';
import { convert, PAGE } from './guest-vcpu.ts';
import type { Guest, Handlers, Range } from './guest-vcpu.ts';

export const AREA_GPA = 2n ** 32n;

export type BackingName = 'anonymous' | 'shared' | 'memfd' | 'hugetlb' | 'hugetlb-memfd';

export interface AreaOptions {
  /** In bytes, of all slots together. */
  readonly size: number;
  readonly slots?: number;
  /** Of the first slot; default {@link AREA_GPA}. */
  readonly gpa?: bigint;
  /** A guest_memfd of its own for each slot, instead of one for all. */
  readonly apart?: boolean;
  /** Where in the guest_memfd the first slot begins. */
  readonly offset?: number;
  readonly backing?: BackingName;
}

export interface Area {
  /** The first LOW_SIZE bytes of guest memory, for the guest itself. */
  readonly low: Uint8Array;
  /** To be given to the guests. */
  readonly handlers: Handlers;
  /** Points that something was seen for outside the scenario: how often. */
  readonly seen: Map<string, number>;
  /** Has the guest ask for it; allocates or punches too where `fallocate`. */
  convert(guest: Guest, range: Range, to: 'private' | 'shared', fallocate: boolean): Promise<void>;
  /** Everything shared, and no private page left. */
  reset(guest: Guest, range: Range): Promise<void>;
  /** Gives the private pages back, and leaves the attributes as they are. */
  punch(guest: Guest, range: Range): Promise<void>;
  /** @throws Error where a byte of the shared side is another. */
  expectShared(range: Range, byte: number): void;
  fillShared(range: Range, byte: number): void;
  close(): void;
}

/** Bits of the test's own in the third argument of the hypercall, as the kernel's test has them. */
const SET_ATTRIBUTES = 1n;
const SHARED = 2n;
const FALLOCATE = 4n;

interface Slot extends Range {
  readonly mapping: HostMapping;
  readonly guestMemfd: GuestMemfd;
  readonly offset: number;
}

export class RawArea implements Area {
  readonly low: Uint8Array;
  readonly seen = new Map<string, number>();
  readonly handlers: Handlers = { hypercall: (exit) => this.#serve(exit) };
  readonly slots: readonly Slot[];
  readonly #vm: Vm;
  readonly #lowMapping = HostMapping.anonymous(LOW_SIZE);

  constructor(vm: Vm, options: AreaOptions) {
    const { size, slots = 1, gpa = AREA_GPA, apart = false, offset = 0, backing = 'anonymous' } = options;
    this.#vm = vm;
    this.low = this.#lowMapping.view();
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: LOW_SIZE, mapping: this.#lowMapping });
    const each = size / slots;
    if (each % PAGE !== 0) throw new RangeError(`${size} bytes do not make ${slots} slots`);
    const one = apart ? undefined : vm.createGuestMemfd(offset + size);
    this.slots = Array.from({ length: slots }, (_, index) => {
      const guestMemfd = one ?? vm.createGuestMemfd(offset + each);
      const slot = {
        gpa: gpa + BigInt(index * each),
        size: each,
        mapping: mapBacking(each, backing),
        guestMemfd,
        offset: apart ? offset : offset + index * each,
      };
      vm.setUserMemoryRegion2({
        slot: 10 + index,
        gpa: slot.gpa,
        size: each,
        mapping: slot.mapping,
        guestMemfd,
        guestMemfdOffset: BigInt(slot.offset),
      });
      return slot;
    });
  }

  convert(guest: Guest, range: Range, to: 'private' | 'shared', fallocate: boolean): Promise<void> {
    return guest.run(convert(range, SET_ATTRIBUTES | (to === 'shared' ? SHARED : 0n) | (fallocate ? FALLOCATE : 0n)));
  }

  reset(guest: Guest, range: Range): Promise<void> {
    return this.convert(guest, range, 'shared', true);
  }

  punch(guest: Guest, range: Range): Promise<void> {
    return guest.run(convert(range, SHARED | FALLOCATE));
  }

  expectShared(range: Range, byte: number): void {
    for (const { slot, at, size } of this.parts(range)) {
      expectBytes((into) => slot.mapping.read(at, into), { gpa: slot.gpa + BigInt(at), size }, byte);
    }
  }

  fillShared(range: Range, byte: number): void {
    for (const { slot, at, size } of this.parts(range)) slot.mapping.fill(at, size, byte);
  }

  /** What of a range lies in which slot. */
  parts({ gpa, size }: Range): { slot: Slot; at: number; size: number }[] {
    const [start, end] = [Number(gpa), Number(gpa) + size];
    return this.slots.flatMap((slot) => {
      const [from, until] = [Math.max(start, Number(slot.gpa)), Math.min(end, Number(slot.gpa) + slot.size)];
      return from < until ? [{ slot, at: from - Number(slot.gpa), size: until - from }] : [];
    });
  }

  close(): void {
    for (const mapping of [this.#lowMapping, ...this.slots.map((slot) => slot.mapping)]) mapping.close();
  }

  #serve(exit: HypercallExit): void {
    this.#see('3.1');
    if (exit.nr !== KVM_HC_MAP_GPA_RANGE) throw new Error(`Expected KVM_HC_MAP_GPA_RANGE and not hypercall ${exit.nr}`);
    const [gpa = 0n, pages = 0n, wanted = 0n] = exit.args;
    const range = { gpa, size: Number(pages) * PAGE };
    const toShared = (wanted & SHARED) !== 0n;
    if ((wanted & FALLOCATE) !== 0n) {
      for (const { slot, at, size } of this.parts(range)) {
        if (toShared) slot.guestMemfd.punchHole(slot.offset + at, size);
        else slot.guestMemfd.fallocate(slot.offset + at, size);
      }
      this.#see('3.2');
    }
    if ((wanted & SET_ATTRIBUTES) !== 0n) {
      this.#vm.setMemoryAttributes({
        address: gpa,
        size: range.size,
        attributes: toShared ? 0n : BigInt(KVM_MEMORY_ATTRIBUTE_PRIVATE),
      });
      this.#see('3.3');
    }
    exit.ret[0] = 0n;
    this.#see('3.4');
  }

  #see(point: string): void {
    this.seen.set(point, (this.seen.get(point) ?? 0) + 1);
  }
}

/** A new mapping of that kind. */
export function mapBacking(size: number, backing: BackingName): HostMapping {
  if (backing === 'anonymous' || backing === 'shared') {
    return HostMapping.anonymous(size, { shared: backing === 'shared' });
  }
  if (backing === 'hugetlb') return HostMapping.anonymous(size, { hugetlb: 0x200000 });
  using file = HostFile.memfd(size, { name: 'conformance', hugetlb: backing === 'memfd' ? 0 : 0x200000 });
  return file.map();
}

const patterns = new Map<number, Buffer>();
let scratch = Buffer.alloc(0);

/** Every byte that `read` gives must be `byte`. */
export function expectBytes(read: (into: Uint8Array) => void, { gpa, size }: Range, byte: number): void {
  let pattern = patterns.get(byte);
  if (pattern === undefined || pattern.length < size) patterns.set(byte, (pattern = Buffer.alloc(size, byte)));
  if (scratch.length < size) scratch = Buffer.alloc(size);
  const found = scratch.subarray(0, size);
  read(found);
  if (found.equals(pattern.subarray(0, size))) return;
  const at = found.findIndex((each) => each !== byte);
  const where = `0x${(gpa + BigInt(at)).toString(16)}`;
  throw new Error(`The host finds 0x${found[at]!.toString(16)} at ${where} and not 0x${byte.toString(16)}`);
}
