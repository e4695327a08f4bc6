/** Slots with a guest_memfd: which descriptors and offsets are taken, and which ranges. */
import { describe, expect } from 'vitest';
import { KVM_MEM_GUEST_MEMFD } from '../../lib/abi/index.ts';
import { HostFile, HostMapping, Kvm } from '../../lib/index.ts';
import type { GuestMemfd, UserMemoryRegion2, Vm } from '../../lib/index.ts';
import { nativeOf } from '../../lib/kvm/handle.ts';
import { GIB, numbers, once, outcome, outcomes, PAGE, pointTest, tally, TWO_MIB } from './support.ts';
import { INIT_SHARED, MMAP } from './support-guest-memfd.ts';
import { askKernel, lacksCompiler } from './support-kernel.ts';
import type { Need } from '../kvm/support.ts';

const GPA = 3n * GIB;
const SLOT = 10;
/** Of the file of which two slots have half each. */
const FILE_SIZE = 4 * TWO_MIB;
const HALF = FILE_SIZE / 2;

interface Kind {
  readonly variant: string;
  readonly type: 'default' | 'sw-protected';
  readonly flags: bigint;
  readonly question: 'descriptors' | 'descriptors-shared';
  readonly needs: readonly Need[];
}

const KINDS: readonly Kind[] = [
  { variant: 'sw-protected VM', type: 'sw-protected', flags: 0n, question: 'descriptors', needs: ['private-memory'] },
  {
    variant: 'default VM',
    type: 'default',
    flags: MMAP | INIT_SHARED,
    question: 'descriptors-shared',
    needs: ['mapped-guest-memfd'],
  },
];

interface Raw {
  readonly slot: number;
  readonly gpa: bigint;
  readonly size: number;
  readonly file?: GuestMemfd;
  readonly offset?: number;
  readonly mapping: HostMapping | null;
}

/** Past the checks of setUserMemoryRegion2(), which has a word for each of what the kernel has one errno for. */
const setRaw = (vm: Vm, { slot, gpa, size, file, offset = 0, mapping }: Raw): string =>
  outcome(() => {
    nativeOf(vm).setUserMemoryRegion(
      2,
      slot,
      KVM_MEM_GUEST_MEMFD,
      gpa,
      BigInt(size),
      mapping === null ? null : nativeOf(mapping),
      0n,
      file === undefined ? null : nativeOf(file),
      BigInt(offset),
    );
  });

for (const { variant, type, flags, question, needs } of KINDS) {
  const test = (id: string, run: () => void): void => pointTest(id, { variant, needs }, run);
  const asked = once(() => askKernel(question, type));

  describe(`what a slot of a ${variant} takes as its guest_memfd`, () => {
    const played = once(() => {
      using kvm = Kvm.open();
      const vm = kvm.createVm(type);
      const other = kvm.createVm(type);
      using memory = HostMapping.anonymous(TWO_MIB);
      using memfd = HostFile.memfd(TWO_MIB);
      const file = vm.createGuestMemfd(TWO_MIB, { flags });
      // What the host can map comes with a mapping of its own.
      const mapping = flags === 0n ? memory : null;
      const beside = flags === 0n ? { mapping: memory } : {};
      const set = (of: Vm, given: object, guestMemfdOffset = 0n): string =>
        outcome(() =>
          of.setUserMemoryRegion2({
            slot: SLOT,
            gpa: GPA,
            size: TWO_MIB,
            guestMemfd: given as GuestMemfd,
            guestMemfdOffset,
            ...beside,
          }),
        );
      const raw = { slot: SLOT, gpa: GPA, size: TWO_MIB, file, mapping };
      const result = {
        system: set(vm, kvm),
        vm: set(vm, vm),
        memfd: set(vm, memfd),
        foreign: [set(other, file), setRaw(other, raw)],
        own: set(vm, file),
        offsets: [{}, {}] as Record<string, number>[],
        atZero: [] as string[],
      };
      vm.deleteMemslot(SLOT);
      result.offsets = [
        tally(Array.from(numbers(1, PAGE), (offset) => setRaw(vm, { ...raw, offset }))),
        outcomes(numbers(1, PAGE), (offset) => {
          vm.setUserMemoryRegion2({
            slot: SLOT,
            gpa: GPA,
            size: TWO_MIB,
            guestMemfd: file,
            guestMemfdOffset: BigInt(offset),
            ...beside,
          });
        }),
      ];
      result.atZero = [
        set(vm, file),
        outcome(() => file.close()),
        String(vm.memslots.has(SLOT)),
        outcome(() => vm.deleteMemslot(SLOT)),
      ];
      return result;
    });

    test('2.8', () => expect(played().system).toBe('TypeError'));
    test('2.9', () => expect(played().vm).toBe('TypeError'));
    test('2.10', () => expect(played().memfd).toBe('TypeError'));
    for (const [id, what] of [
      ['2.8', 'system'],
      ['2.9', 'vm'],
      ['2.10', 'memfd'],
    ] as const) {
      // The addon gives only guest_memfds to the kernel.
      pointTest(id, { variant: `${variant}, in a child process`, needs, lacks: lacksCompiler }, () => {
        expect([asked()[what], asked()['guestMemfd']]).toEqual(['EINVAL', 'success']);
      });
    }
    test('2.11', () => expect(played().foreign).toEqual(['TypeError', 'EINVAL']));
    test('2.12', () => expect(played().own).toBe('success'));
    test('2.13', () => expect(played().offsets).toEqual([{ EINVAL: PAGE - 1 }, { RangeError: PAGE - 1 }]));
    test('2.14', () => expect(played().atZero).toEqual(['success', 'success', 'true', 'success']));
  });

  describe(`two slots of a ${variant} in one file`, () => {
    const played = once(() => {
      using kvm = Kvm.open();
      const vm = kvm.createVm(type);
      const file = vm.createGuestMemfd(FILE_SIZE, { flags });
      using memory = HostMapping.anonymous(FILE_SIZE);
      const mapping = flags === 0n ? memory : null;
      const region = (slot: number, gpa: bigint, offset: number): UserMemoryRegion2 => ({
        slot,
        gpa,
        size: HALF,
        guestMemfd: file,
        guestMemfdOffset: BigInt(offset),
        ...(flags === 0n ? { mapping: memory } : {}),
      });
      const set = (one: UserMemoryRegion2): string => outcome(() => vm.setUserMemoryRegion2(one));
      const halves = [set(region(SLOT, GPA, 0)), set(region(SLOT + 1, 2n * GPA, HALF))];
      // As the kernel's test deletes it: size 0, the flag still given, descriptor -1. Then by the method.
      const deleted = [setRaw(vm, { slot: SLOT, gpa: GPA, size: 0, mapping: null })];
      setRaw(vm, { slot: SLOT, gpa: GPA, size: HALF, file, mapping });
      deleted.push(outcome(() => vm.deleteMemslot(SLOT)));
      const overlap = (by: number): string[] => {
        const gpa = 2n * GPA + BigInt(by);
        return [setRaw(vm, { slot: SLOT, gpa, size: HALF, file, mapping }), set(region(SLOT, gpa, 0))];
      };
      return { halves, deleted, front: overlap(-TWO_MIB), back: overlap(TWO_MIB) };
    });

    test('2.15', () => expect([played().halves, played().deleted]).toEqual(Array(2).fill(['success', 'success'])));
    test('2.16', () => expect(played().front).toEqual(['EEXIST', 'RangeError']));
    test('2.17', () => expect(played().back).toEqual(['EEXIST', 'RangeError']));
  });
}
