/** Which pages the guest wrote to: the bitmap of a memslot, and the reset of the vCPUs' rings. */
import { bytes as checkBytes, options as checkOptions, rangeError, u32, u64 } from '../../arguments.ts';
import { KVM_RESET_DIRTY_RINGS } from '../../abi/index.ts';
import { KvmStateError } from '../../errors.ts';
import { VmPrivateMemory } from './private-memory.ts';

/** Pages whose dirty bits are cleared, and that are watched again from then on. */
export interface ClearDirtyLog {
  readonly slot: number;
  /** In pages from the start of the slot: a multiple of 64. */
  readonly firstPage: bigint;
  /** A multiple of 64, unless the range ends where the slot does. */
  readonly numPages: number;
  /** Bit n stands for page `firstPage` + n; only pages whose bit is 1 are cleared. ceil(numPages / 64) * 8 bytes. */
  readonly bitmap: Uint8Array;
}

const PAGE_SHIFT = 12n;
const PAGES_PER_WORD = 64n;

export abstract class VmDirtyLog extends VmPrivateMemory {
  /**
   * Which pages of a slot the guest (or the kernel, for it) wrote to since the last call: bit n of the bitmap, counted
   * from the lowest bit of byte 0, is page n of the slot. What this process writes into the mapping is not seen.
   *
   * Clears the log and watches all pages again, unless {@link Vm.enableManualDirtyLogProtect} was called: then
   * {@link clearDirtyLog} does so.
   *
   * @param into - filled instead of a new array: at least ceil(pages / 64) * 8 bytes; what is behind stays untouched.
   * @returns the bitmap, ceil(pages / 64) * 8 bytes: a part of `into` where that is given.
   * @throws KvmStateError for a slot that was not set by this handle; KvmSystemError ENOENT (not logged), ENXIO (dirty
   * rings are on). *KVM_GET_DIRTY_LOG*
   */
  getDirtyLog(slot: number, into?: Uint8Array): Uint8Array {
    const length = Number((this.#pagesOf(slot) + PAGES_PER_WORD - 1n) / PAGES_PER_WORD) * 8;
    const bitmap = into === undefined ? new Uint8Array(length) : checkBytes('into', into, { min: length });
    const part = bitmap.byteLength === length ? bitmap : bitmap.subarray(0, length);
    this.check(() => this.native.getDirtyLog(slot, part), { state: `slot ${slot}` });
    return part;
  }

  /**
   * Clears dirty bits and watches these pages again. Read the bitmap first, clear, and only then copy the pages: a
   * write in between is then in the next bitmap. Of use after {@link Vm.enableManualDirtyLogProtect} only. Needs
   * KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
   *
   * @throws RangeError where the range is not one of whole words or not inside the slot; KvmSystemError ENOENT, ENXIO.
   * *KVM_CLEAR_DIRTY_LOG*
   */
  clearDirtyLog(range: ClearDirtyLog): void {
    const { slot, firstPage, numPages, bitmap } = checkOptions('range', range, [
      'slot',
      'firstPage',
      'numPages',
      'bitmap',
    ]) as ClearDirtyLog;
    const pages = this.#pagesOf(slot);
    u64('firstPage', firstPage);
    if (firstPage % PAGES_PER_WORD !== 0n) throw rangeError('a multiple of 64', 'firstPage', firstPage);
    const end = firstPage + BigInt(u32('numPages', numPages));
    if (numPages === 0) throw rangeError('a count above 0', 'numPages', numPages);
    if (end > pages) throw rangeError(`at most the ${pages} pages of slot ${slot}`, 'firstPage + numPages', end);
    if (numPages % 64 !== 0 && end !== pages) {
      throw rangeError('a multiple of 64, or a range to the end of the slot,', 'numPages', numPages);
    }
    checkBytes('bitmap', bitmap, { min: Math.ceil(numPages / 64) * 8 });
    this.check(() => this.native.clearDirtyLog(slot, firstPage, numPages, bitmap), {
      state: `slot ${slot}, ${numPages} pages from ${firstPage}`,
    });
  }

  /**
   * Takes back the entries that were harvested from the dirty rings of all vCPUs and watches their pages again. Call it
   * after harvesting and before the contents of the pages are read. Needs {@link Vm.enableDirtyLogRing}.
   *
   * @returns how many entries were taken back.
   * @throws KvmSystemError EINVAL (dirty rings are not on). *KVM_RESET_DIRTY_RINGS*
   */
  resetDirtyRings(): number {
    return this.ioctl(KVM_RESET_DIRTY_RINGS, undefined, {
      hint: 'dirty rings are not on: call enableDirtyLogRing before the first vCPU',
    });
  }

  #pagesOf(slot: number): bigint {
    u32('slot', slot);
    this.expectOpen();
    const memslot = this.memslots.get(slot);
    if (memslot === undefined) throw new KvmStateError(`Slot ${slot} was not set by this handle: it has no dirty log`);
    return BigInt(memslot.size) >> PAGE_SHIFT;
  }
}
