/** The VM of the demo with everything in it, and the words in which the steps speak of it. */
import { GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP } from '../abi/index.ts';
import { HostMapping, Kvm, type GuestMemfd, type Vcpu } from '../kvm/index.ts';
import { GuestMemory, type Backing, type Conversion, type MemoryRegion } from '../memory/index.ts';
import { createVm, type SelectedVm } from '../tier/create-vm.ts';
import { TIER_FACTS, type Tier, type TierFacts, type TierRefusal } from '../tier/tiers.ts';
import type { Guest } from './guest-program.ts';
import { LATE_SLOT, MAIN_SLOT, PAGE, PLAIN_SLOT, bytesOf, type Area } from './plan.ts';
import { Impossible } from './report.ts';

export class Scene implements Disposable {
  readonly kvm: Kvm;
  readonly vm: SelectedVm;
  readonly tier: Tier;
  readonly facts: TierFacts;
  readonly memory: GuestMemory;
  /** Pages of guest_memfd that certainly hold something, by gpa: the kernel does not tell, but the steps know. */
  readonly touched = new Set<bigint>();
  readonly conversions: Conversion[] = [];
  /** This KVM never gets over a hypercall instruction. */
  hypercallsLoop = false;
  guestMemfd: GuestMemfd | undefined;
  /** What the host has of the main slot: the shared side, or the guest_memfd itself where that is mapped. */
  mapping!: HostMapping;
  plainRegion!: MemoryRegion;
  lateRegion!: MemoryRegion;
  vcpu!: Vcpu;
  guest!: Guest;

  constructor() {
    this.kvm = Kvm.open();
    try {
      this.vm = createVm({ type: 'auto', kvm: this.kvm });
    } catch (error) {
      this.kvm.close();
      throw error;
    }
    this.tier = this.vm.tier;
    this.facts = TIER_FACTS[this.tier];
    this.memory = new GuestMemory(this.vm);
    this.memory.on('conversion', (conversion) => this.conversions.push(conversion));
  }

  get fallback(): readonly TierRefusal[] {
    return this.vm.fallback;
  }

  /** Ends a step that needs private memory, where there is none. */
  needPrivate(detail = ''): void {
    if (this.facts.privateMemory) return;
    throw new Impossible(
      `a ${this.vm.typeName} VM has no private memory (KVM_CAP_MEMORY_ATTRIBUTES is 0 on it)`,
      detail,
    );
  }

  createGuestMemfd(): GuestMemfd {
    if (this.facts.guestMemfd === 'none') {
      throw new Impossible(this.fallback.at(-1)?.reason ?? 'this host has no guest_memfd that a VM can bind');
    }
    const flags = this.facts.guestMemfd === 'mapped' ? GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED : 0n;
    this.guestMemfd = this.vm.createGuestMemfd(MAIN_SLOT.size, { flags });
    return this.guestMemfd;
  }

  /** The main slot with what the tier offers, and two slots of ordinary memory. */
  addSlots(): void {
    const { guestMemfd, memory } = this;
    if (guestMemfd !== undefined && this.facts.guestMemfd === 'mapped') {
      memory.add({ ...MAIN_SLOT, backing: { kind: 'guest-memfd', guestMemfd } });
      this.mapping = guestMemfd.map();
    } else {
      this.mapping = HostMapping.anonymous(MAIN_SLOT.size, { shared: true });
      const backing: Backing = { kind: 'mapping', mapping: this.mapping, discard: 'remove' };
      memory.add({ ...MAIN_SLOT, backing, ...(guestMemfd === undefined ? {} : { private: { guestMemfd } }) });
      // It is new, which only we know: a hole over all of it lets the account begin at nothing.
      if (guestMemfd !== undefined) memory.discard({ ...MAIN_SLOT, side: 'private' });
    }
    this.plainRegion = memory.add({ ...PLAIN_SLOT, backing: { kind: 'shared' } });
    this.lateRegion = memory.add({ ...LATE_SLOT, backing: { kind: 'shared' } });
  }

  /** What the shared side, or the mapped guest_memfd, shows of a page of the main slot: not necessarily what the guest sees. */
  hostSees(gpa: bigint): bigint {
    const word = new Uint8Array(8);
    this.mapping.read(Number(gpa - MAIN_SLOT.gpa), word);
    return new DataView(word.buffer).getBigUint64(0, true);
  }

  touch({ gpa, pages }: Area): void {
    for (let page = 0; page < pages; page++) this.touched.add(gpa + BigInt(page * PAGE));
  }

  untouch({ gpa, pages }: Area): void {
    for (let page = 0; page < pages; page++) this.touched.delete(gpa + BigInt(page * PAGE));
  }

  isPrivate({ gpa, pages }: Area): boolean {
    return this.memory.attributes.ranges(gpa, bytesOf({ gpa, pages })).every(({ state }) => state === 'private');
  }

  close(): void {
    this.memory.close();
    this.vm.close();
    this.mapping?.close();
    this.kvm.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
