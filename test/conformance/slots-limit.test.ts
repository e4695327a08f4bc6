/** As many slots as there can be. */
import { describe, expect } from 'vitest';
import { HostMapping, Kvm } from '../../lib/index.ts';
import type { UserMemoryRegion } from '../../lib/index.ts';
import { nativeOf } from '../../lib/kvm/handle.ts';
import { once, outcome, pointTest, TWO_MIB } from './support.ts';

const SIZE = BigInt(TWO_MIB);
/** The first test makes all of them, and the lab's processor is slow. */
const timeout = 1_800_000;

interface Played {
  readonly limit: number;
  readonly made: number;
  readonly more: readonly string[];
  readonly overlaps: readonly string[];
  readonly again: string;
}

const played = once((): Played => {
  using kvm = Kvm.open();
  const vm = kvm.createVm();
  const limit = vm.checkExtension('KVM_CAP_NR_MEMSLOTS');
  using mapping = HostMapping.anonymous((limit + 1) * TWO_MIB, { noreserve: true });
  const region = (slot: number): UserMemoryRegion => ({
    slot,
    gpa: BigInt(slot) * SIZE,
    size: TWO_MIB,
    mapping,
    mappingOffset: slot * TWO_MIB,
  });
  for (let slot = 0; slot < limit; slot++) vm.setUserMemoryRegion(region(slot));
  const made = vm.memslots.size;
  const more = [
    outcome(() => vm.setUserMemoryRegion(region(limit))),
    outcome(() =>
      nativeOf(vm).setUserMemoryRegion(
        1,
        limit,
        0,
        BigInt(limit) * SIZE,
        SIZE,
        nativeOf(mapping),
        BigInt(limit) * SIZE,
        null,
        0n,
      ),
    ),
  ];
  // Two slots make room for one that reaches half a slot too far, to either side.
  const hole = [limit >> 1, (limit >> 1) + 1] as const;
  for (const slot of hole) vm.deleteMemslot(slot);
  const overlaps = [-1n, 1n].map((side) =>
    messageOf(() =>
      vm.setUserMemoryRegion({
        ...region(hole[0]),
        gpa: BigInt(hole[0]) * SIZE + side * (SIZE / 2n),
        size: 2 * TWO_MIB,
      }),
    ),
  );
  const again = outcome(() => vm.setUserMemoryRegion({ ...region(hole[0]), size: 2 * TWO_MIB }));
  return { limit, made, more, overlaps, again };
});

function messageOf(call: () => void): string {
  try {
    call();
    return 'success';
  } catch (error) {
    return /slot \d+ has/.exec((error as Error).message)?.[0] ?? String(error);
  }
}

describe('the number of slots', () => {
  pointTest('2.5', { timeout }, () => {
    expect(played().limit).toBeGreaterThan(0);
    expect(played().limit).toBe(32764);
  });

  pointTest('2.6', { timeout }, () => {
    const { limit, made, overlaps, again } = played();
    expect(made).toBe(limit);
    expect([...overlaps, again]).toEqual([`slot ${(limit >> 1) - 1} has`, `slot ${(limit >> 1) + 2} has`, 'success']);
  });

  pointTest('2.7', { timeout }, () => expect(played().more).toEqual(['RangeError', 'EINVAL']));
});
