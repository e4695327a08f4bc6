/**
 * Notices a vCPU that faults again and again because nothing changes. One fault that finds the range in the wanted
 * state already is usual: another vCPU faulted on the same page and was served first. The second of the same vCPU is
 * not.
 */
import type { Wanted } from './requests.ts';

// A guest with more vCPUs stuck at different addresses than this loses the oldest entries, not the guard.
const REMEMBERED = 1024;

export class FaultGuard {
  readonly #seen = new Map<string, { wanted: Wanted; count: number }>();

  /**
   * Notes a fault for which nothing had to be changed.
   * @returns false when it is one too many: the second, or with `vcpu` unknown, one more than there are vCPUs.
   */
  unchanged(wanted: Wanted, vcpu: number | undefined, vcpus: number): boolean {
    const key = `${wanted.start} ${wanted.end} ${wanted.to} ${vcpu ?? ''}`;
    const count = (this.#seen.get(key)?.count ?? 0) + 1;
    this.#seen.delete(key);
    this.#seen.set(key, { wanted, count });
    if (this.#seen.size > REMEMBERED) this.#seen.delete(this.#seen.keys().next().value!);
    return count <= (vcpu === undefined ? Math.max(1, vcpus) : 1);
  }

  /** Something changed in the range (bytes), so a fault there is a new one. */
  changed(start: number, end: number): void {
    for (const [key, { wanted }] of this.#seen) {
      if (wanted.start < end && start < wanted.end) this.#seen.delete(key);
    }
  }
}
