/** Finds the slots at an address: there may be 32764 of them, and each new one is held against all. */
import type { Memslot } from './memslots.ts';

/** The memslots of one address space, in the order of their addresses. None of them overlap. */
export class SlotIndex {
  readonly #slots: Memslot[] = [];

  add(slot: Memslot): void {
    this.#slots.splice(this.#firstAbove(slot.gpa), 0, slot);
  }

  delete(slot: Memslot): void {
    const at = this.#firstAbove(slot.gpa);
    if (this.#slots[at] === slot) this.#slots.splice(at, 1);
  }

  /** A slot of another number that has part of the range. */
  overlapping({ slot, gpa, size }: Memslot): Memslot | undefined {
    const end = gpa + BigInt(size);
    for (let at = this.#firstAbove(gpa); at < this.#slots.length; at++) {
      const other = this.#slots[at]!;
      if (other.gpa >= end) return undefined;
      if (other.slot !== slot) return other;
    }
    return undefined;
  }

  /** Where the first slot is that ends above an address. */
  #firstAbove(gpa: bigint): number {
    let [low, high] = [0, this.#slots.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { gpa: start, size } = this.#slots[middle]!;
      if (start + BigInt(size) > gpa) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
