/** Moving and deleting slots under a vCPU that reads them. */
import { describe, expect } from 'vitest';
import { KVM_X86_QUIRK_SLOT_ZAP_ALL } from '../../lib/abi/index.ts';
import { HostMapping, Kvm } from '../../lib/index.ts';
import type { Vm } from '../../lib/index.ts';
import { once, outcome, PAGE, pointTest, TWO_MIB } from './support.ts';
import { withVm } from './support-guest-memfd.ts';
import { ABSENT, GPA, LAST, Spinner } from './support-slots.ts';
import type { SeenMmio } from './support-slots.ts';

const SLOT = 10;
const ROUNDS = 10;
const [HERE, STALE, BELOW] = [1, 2, 7];
const timeout = 1_800_000;

const quirk = outcome(() =>
  withVm('default', (vm) => {
    const quirks = BigInt(vm.checkExtension('KVM_CAP_DISABLE_QUIRKS2'));
    if ((quirks & KVM_X86_QUIRK_SLOT_ZAP_ALL) === 0n) throw new Error('no quirk');
  }),
);

const MODES = [
  { variant: 'a change of slots drops all pages', prepare: (): void => undefined, lacks: undefined },
  {
    variant: "it drops the slot's pages alone",
    lacks: quirk === 'success' ? undefined : 'KVM_X86_QUIRK_SLOT_ZAP_ALL',
    prepare: (vm: Vm): void => vm.disableQuirks(KVM_X86_QUIRK_SLOT_ZAP_ALL),
  },
];

function huge(): HostMapping {
  const mapping = HostMapping.anonymous(TWO_MIB);
  mapping.madvise(0, TWO_MIB, 'hugepage');
  return mapping;
}

/** A word of 8 bytes. */
function put(mapping: HostMapping, offset: number, value: number): void {
  mapping.write(offset, Uint8Array.of(value, 0, 0, 0, 0, 0, 0, 0));
}

interface Round {
  readonly said: readonly number[];
  readonly mmio: readonly SeenMmio[];
  readonly outcomes: readonly string[];
  readonly inLastLoop: boolean;
}

async function move(prepare: (vm: Vm) => void): Promise<Round> {
  using kvm = Kvm.open();
  const vm = kvm.createVm();
  prepare(vm);
  using mapping = huge();
  put(mapping, 0, HERE);
  put(mapping, PAGE, BELOW);
  const to = (gpa: bigint): string =>
    outcome(() => vm.setUserMemoryRegion({ slot: SLOT, gpa, size: TWO_MIB, mapping }));
  const outcomes = [to(GPA)];
  const spinner = new Spinner(vm);
  try {
    spinner.start();
    await spinner.says(HERE);
    outcomes.push(to(GPA - BigInt(PAGE)));
    put(mapping, 0, STALE);
    await spinner.says(BELOW);
    await spinner.beats();
    put(mapping, 0, HERE);
    outcomes.push(to(GPA));
    await spinner.says(HERE);
    await spinner.beats();
    // Out of the way, which the guest cannot miss: a last MMIO access.
    spinner.answer = LAST;
    outcomes.push(to(GPA + BigInt(TWO_MIB)));
    await spinner.says(LAST);
    await spinner.lastLoop();
    return { said: spinner.said, mmio: spinner.mmio, outcomes, inLastLoop: spinner.inLastLoop() };
  } finally {
    spinner.vcpu.close();
    spinner.close();
  }
}

interface Deletion extends Round {
  /** How the vCPU ended when slot 0 went. */
  readonly end: string;
}

async function remove(prepare: (vm: Vm) => void): Promise<Deletion> {
  using kvm = Kvm.open();
  const vm = kvm.createVm();
  prepare(vm);
  const outcomes: string[] = [];
  const add = (): void => {
    using fresh = huge();
    outcomes.push(outcome(() => vm.setUserMemoryRegion({ slot: SLOT, gpa: GPA, size: TWO_MIB, mapping: fresh })));
  };
  const drop = (slot: number): number => outcomes.push(outcome(() => vm.deleteMemslot(slot)));
  add();
  const spinner = new Spinner(vm);
  try {
    spinner.start();
    await spinner.says(0);
    drop(SLOT);
    await spinner.says(ABSENT);
    add();
    await spinner.says(0);
    await spinner.beats();
    drop(SLOT);
    await spinner.says(ABSENT);
    spinner.answer = LAST;
    await spinner.says(LAST);
    await spinner.lastLoop();
    spinner.start();
    drop(0);
    const { reason } = await spinner.end();
    return { said: spinner.said, mmio: spinner.mmio, outcomes, inLastLoop: spinner.inLastLoop(), end: reason };
  } finally {
    spinner.vcpu.close();
    spinner.close();
  }
}

async function rounds<T>(play: () => Promise<T>): Promise<T[]> {
  const all: T[] = [];
  for (let round = 0; round < ROUNDS; round++) all.push(await play());
  return all;
}

for (const { variant, prepare, lacks } of MODES) {
  const test = (id: string, run: () => void | Promise<void>): void => pointTest(id, { variant, lacks, timeout }, run);

  describe(`moving a slot: ${variant}`, () => {
    const played = once(() => rounds(() => move(prepare)));
    const accesses = async (): Promise<SeenMmio[]> => (await played()).flatMap(({ mmio }) => mmio);

    test('2.18', async () => {
      const seen = await accesses();
      expect(seen.length).toBeGreaterThanOrEqual(ROUNDS);
      expect(new Set(seen.map(({ direction }) => direction))).toEqual(new Set(['read']));
    });
    test('2.19', async () => expect(new Set((await accesses()).map(({ bytes }) => bytes))).toEqual(new Set([8])));
    test('2.20', async () => expect(new Set((await accesses()).map(({ gpa }) => gpa))).toEqual(new Set([GPA])));
    test('2.21', async () => {
      for (const { said, outcomes } of await played()) {
        expect(outcomes).toEqual(Array(4).fill('success'));
        expect(said).not.toContain(STALE);
        expect(said.filter((value) => value !== ABSENT).slice(0, 2)).toEqual([HERE, BELOW]);
      }
    });
    test('2.22', async () => {
      for (const { said, mmio } of await played()) {
        // At most once for each move that was not the last.
        expect(said.join(' ')).toMatch(new RegExp(`^${HERE}( ${ABSENT})? ${BELOW}( ${ABSENT})? ${HERE} ${LAST}$`));
        expect(mmio.length).toBe(said.filter((value) => value === ABSENT || value === LAST).length);
      }
    });
    test('2.23', async () => {
      for (const { said } of await played()) {
        expect(said.filter((value) => value !== ABSENT)).toEqual([HERE, BELOW, HERE, LAST]);
      }
    });
    test('2.24', async () => {
      expect((await played()).map(({ inLastLoop }) => inLastLoop)).toEqual(Array(ROUNDS).fill(true));
    });
  });

  describe(`deleting a slot: ${variant}`, () => {
    const played = once(() => rounds(() => remove(prepare)));

    test('2.25', async () => {
      for (const { said, outcomes } of await played()) {
        expect(said.slice(0, 2)).toEqual([0, ABSENT]);
        expect(outcomes).toEqual(Array(5).fill('success'));
      }
    });
    test('2.26', async () => {
      for (const { said } of await played()) expect(said.slice(0, 3)).toEqual([0, ABSENT, 0]);
    });
    test('2.27', async () => {
      for (const { said, mmio } of await played()) {
        expect(said).toEqual([0, ABSENT, 0, ABSENT, LAST]);
        const accesses = mmio.map(({ direction, bytes, gpa }) => `${direction} ${bytes} ${gpa}`);
        expect(new Set(accesses)).toEqual(new Set([`read 8 ${GPA}`]));
      }
    });
    test('2.28', async () => {
      for (const { end } of await played()) expect(['shutdown', 'internal-error']).toContain(end);
    });
    test('2.29', async () => {
      // After a shutdown the state may be that of a reset.
      const elsewhere = (await played()).filter(({ end, inLastLoop }) => end !== 'shutdown' && !inLastLoop);
      expect([elsewhere, (await played()).length]).toEqual([[], ROUNDS]);
    });
  });
}
