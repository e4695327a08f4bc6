/** The ring in which KVM gathers writes to coalesced zones, so that they do not exit one by one. */
import { KVM_COALESCED_MMIO_PAGE_OFFSET, kvmCoalescedMmio, kvmCoalescedMmioRing } from '../abi/index.ts';
import { PAGE_SIZE } from '../arguments.ts';
import { KvmError, KvmStateError, KvmUnsupportedError } from '../errors.ts';
import type { NativeVcpu } from '../native.ts';
import type { Closeable } from './handle.ts';
import { expectNative } from './handle.ts';

/** A write of the guest to a coalesced zone. */
export interface CoalescedWrite {
  /** The guest physical address, or the port. */
  readonly address: bigint;
  /** Whether `address` is a port. */
  readonly pio: boolean;
  /** A copy of what was written: 1 to 8 bytes. */
  readonly data: Uint8Array;
}

/** What the ring needs of a vCPU, in whose kvm_run mapping it is. */
export interface CoalescedRingVcpu extends Closeable<NativeVcpu> {
  readonly id: number;
}

const FIRST_WORD = 0;
const LAST_WORD = 1;
const CAPACITY = Math.floor((PAGE_SIZE - kvmCoalescedMmioRing.size) / kvmCoalescedMmio.size);

/**
 * Reads the ring of coalesced writes. A VM has one, which all of its vCPUs show, so drain it through one of them, in
 * one thread. It says nothing when something comes in: drain it at every exit, before the exit is answered, since these
 * writes came before it. When it is full, writes exit as if their zone were not coalesced.
 *
 * Valid as long as the vCPU is open. *KVM_REGISTER_COALESCED_MMIO*
 */
export class CoalescedRing {
  readonly vcpu: CoalescedRingVcpu;
  /** How many writes fit, less the one place that stays free. */
  readonly capacity: number = CAPACITY - 1;
  readonly #head: Uint32Array;
  readonly #entries: DataView;

  /** @throws KvmUnsupportedError where the vCPU's mapping has no such page. Made by {@link Vm.coalescedRing}. */
  constructor(vcpu: CoalescedRingVcpu) {
    const { run } = expectNative<NativeVcpu>('run', 'a Vcpu', 'vcpu', vcpu);
    const start = KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE_SIZE;
    if (run.byteLength < start + PAGE_SIZE) {
      throw new KvmUnsupportedError(
        'The mapping of the vCPU has no ring of coalesced writes on this kernel',
        'KVM_CAP_COALESCED_MMIO',
      );
    }
    this.vcpu = vcpu;
    this.#head = new Uint32Array(run, start, kvmCoalescedMmioRing.size / 4);
    this.#entries = new DataView(run, start + kvmCoalescedMmioRing.size, CAPACITY * kvmCoalescedMmio.size);
  }

  /**
   * Takes the writes that are in the ring now, in the order they were made. May be called while vCPUs run.
   *
   * @throws KvmStateError once the vCPU is closed.
   */
  drain(): CoalescedWrite[] {
    if (this.vcpu.closed) throw new KvmStateError(`The vCPU ${this.vcpu.id} of this ring is closed`, 'ERR_KVM_CLOSED');
    const writes: CoalescedWrite[] = [];
    let first = Atomics.load(this.#head, FIRST_WORD);
    // KVM writes the entry, then `last`; and uses a place again only after `first` has left it. So `last` is read
    // before the entries and `first` is written after them.
    const last = Atomics.load(this.#head, LAST_WORD);
    if (first >= CAPACITY || last >= CAPACITY) {
      throw new KvmError(
        `The ring of coalesced writes is out of order: first ${first}, last ${last}`,
        'ERR_KVM_UNEXPECTED',
      );
    }
    while (first !== last) {
      const { physAddr, len, pio, data } = kvmCoalescedMmio.decode(this.#entries, first * kvmCoalescedMmio.size);
      writes.push({ address: physAddr, pio: pio !== 0, data: data.subarray(0, Math.min(len, data.byteLength)) });
      first = (first + 1) % CAPACITY;
    }
    Atomics.store(this.#head, FIRST_WORD, first);
    return writes;
  }
}
