/** The ring in which KVM notes the pages that one vCPU wrote to. *KVM_CAP_DIRTY_LOG_RING* */
import { rangeError, uint } from '../arguments.ts';
import { KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET, kvmDirtyGfn } from '../abi/index.ts';
import { KvmStateError, wrapSystemError } from '../errors.ts';
import type { NativeVcpu } from '../native.ts';
import type { Closeable } from './handle.ts';
import { expectNative } from './handle.ts';

/** A page that the vCPU wrote to. */
export interface DirtyPage {
  readonly slot: number;
  /** 0, or 1 for what was written in system management mode. */
  readonly addressSpace: number;
  /** In pages, from the start of the slot. */
  readonly page: bigint;
}

/** What the ring needs of a vCPU. */
export interface DirtyRingVcpu extends Closeable<NativeVcpu> {
  readonly id: number;
}

/**
 * Reads the dirty ring of one vCPU. The order of things: {@link harvest} the ring of each vCPU, then
 * {@link Vm.resetDirtyRings}, and only then read the pages. A vCPU whose ring is nearly full exits with
 * `'dirty-ring-full'`, and exits so again until the ring was harvested and reset. Harvesting works while the vCPU runs.
 *
 * Make one object for each vCPU and keep it: it holds the place in the ring. It ends with the vCPU.
 */
export class DirtyRing {
  readonly vcpu: DirtyRingVcpu;
  /** How many pages the ring holds. */
  readonly length: number;
  readonly #words: Uint32Array;
  readonly #view: DataView;
  #next = 0;

  /**
   * @param vcpu - of a VM on which {@link Vm.enableDirtyLogRing} was called before it was made.
   * @param bytes - the size given there.
   * @throws KvmSystemError where the VM has no dirty rings, or not of this size.
   */
  constructor(vcpu: DirtyRingVcpu, bytes: number) {
    uint('bytes', bytes, { min: 4096, max: 2 ** 30 });
    if ((bytes & (bytes - 1)) !== 0) throw rangeError('a power of two', 'bytes', bytes);
    const native = expectNative<NativeVcpu>('mapDirtyRing', 'a Vcpu', 'vcpu', vcpu);
    this.vcpu = vcpu;
    const ring = mapRing(native, vcpu.id, bytes);
    this.length = bytes / kvmDirtyGfn.size;
    this.#words = new Uint32Array(ring);
    this.#view = new DataView(ring);
  }

  /**
   * Takes the pages that are in the ring now, in the order they were written to. A page can be there more than once:
   * writes that the processor makes are noted once until the rings are reset, those that KVM emulates each time. The
   * places are free for the vCPU again only after {@link Vm.resetDirtyRings}.
   *
   * @param limit - take at most so many. Default: all.
   * @throws KvmStateError once the vCPU is closed.
   */
  harvest(limit: number = this.length): DirtyPage[] {
    uint('limit', limit);
    if (this.vcpu.closed) throw new KvmStateError(`The vCPU ${this.vcpu.id} of this ring is closed`, 'ERR_KVM_CLOSED');
    const pages: DirtyPage[] = [];
    const most = Math.min(limit, this.length);
    while (pages.length < most) {
      const at = this.#next * kvmDirtyGfn.size;
      // The kernel fills the entry first and sets the flag last, from another processor: the flag is read with acquire
      // before the entry, and given back with release after it.
      if ((Atomics.load(this.#words, at / 4) & KVM_DIRTY_GFN_F_DIRTY) === 0) break;
      const { slot, offset } = kvmDirtyGfn.decode(this.#view, at);
      Atomics.store(this.#words, at / 4, KVM_DIRTY_GFN_F_RESET);
      pages.push({ slot: slot & 0xffff, addressSpace: slot >>> 16, page: offset });
      this.#next = (this.#next + 1) % this.length;
    }
    return pages;
  }
}

function mapRing(native: NativeVcpu, id: number, bytes: number): ArrayBuffer {
  try {
    return native.mapDirtyRing(bytes);
  } catch (error) {
    throw wrapSystemError(error, {
      message: `Mapping the dirty ring of vCPU ${id}`,
      hint: 'enableDirtyLogRing was not called before this vCPU was made, or with another size',
    });
  }
}
