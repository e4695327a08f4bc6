/** Making a guest_memfd: flags, sizes, and several of one VM. */
import { fstatSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Stats } from 'node:fs';
import { POINTS } from './points.ts';
import { bits, kernelDiffers, numbers, once, outcomes, PAGE, point, pointTest, tally } from './support.ts';
import { createRaw, flagsOf, KINDS, TYPES, withFile, withVm } from './support-guest-memfd.ts';

describe('flags', () => {
  for (const { variant, type, needs } of TYPES) {
    pointTest('1.1', { variant, needs }, () =>
      withVm(type, (vm) => {
        const known = [...bits(64)].filter((flag) => (flag & flagsOf(vm)) !== 0n);
        const expected = { EINVAL: 64 - known.length, ...(known.length > 0 ? { success: known.length } : {}) };
        expect(tally(Array.from(bits(64), (flags) => createRaw(vm, 4096n, flags)))).toEqual(expected);
        if (known.length > 0) kernelDiffers('1.1', `${known.length} flags are known: ${known.join(', ')}`);
      }),
    );

    // Other types than the default one need not have any.
    pointTest('1.2', { variant, needs: type === 'default' ? [...needs, 'mapped-guest-memfd'] : needs }, () => {
      withVm(type, (vm) => {
        const known = [...bits(64)].filter((flag) => (flag & flagsOf(vm)) !== 0n);
        for (const flags of known) {
          const file = vm.createGuestMemfd(PAGE, { flags });
          expect([file.flags, fstatSync(file.fd).size]).toEqual([flags, PAGE]);
          file.fallocate(0, PAGE);
          file.close();
        }
        if (type === 'default') expect(known.length).toBeGreaterThan(0);
      });
    });

    pointTest('1.3', { variant, needs }, () =>
      withVm(type, (vm) => {
        const unknown = [...bits(64)].filter((flag) => (flag & flagsOf(vm)) === 0n);
        expect(tally(unknown.map((flags) => createRaw(vm, 4096n, flags)))).toEqual({ EINVAL: unknown.length });
        expect(outcomes(unknown, (flags) => vm.createGuestMemfd(PAGE, { flags }))).toEqual({
          ERR_KVM_UNSUPPORTED: unknown.length,
        });
        expect(unknown.length).toBeGreaterThanOrEqual(62);
      }),
    );
  }
});

for (const kind of KINDS) {
  const { variant, type, flags, needs } = kind;
  describe(variant, () => {
    pointTest('1.4', { variant, needs }, () =>
      withVm(type, (vm) => {
        const answers = Array.from(numbers(1, PAGE), (size) => createRaw(vm, BigInt(size), flags));
        expect(tally(answers)).toEqual({ EINVAL: PAGE - 1 });
        const refused = outcomes(numbers(1, PAGE), (size) => vm.createGuestMemfd(size, { flags }));
        expect(refused).toEqual({ RangeError: PAGE - 1 });
        expect(createRaw(vm, 4096n, flags)).toBe('success');
      }),
    );

    pointTest('1.5', { variant, needs }, () =>
      withVm(type, (vm) => {
        const sizes = [0n, -1n, -4096n, -(2n ** 63n), 4097n];
        expect(tally(sizes.map((size) => createRaw(vm, size, flags)))).toEqual({ EINVAL: sizes.length });
        expect(outcomes(sizes, (size) => vm.createGuestMemfd(size, { flags }))).toEqual({ RangeError: sizes.length });
      }),
    );

    const files = once(() =>
      withFile(kind, PAGE, (first, vm): Record<'first' | 'second' | 'again', Stats> => {
        const before = fstatSync(first.fd);
        const second = vm.createGuestMemfd(2 * PAGE, { flags });
        return { first: before, second: fstatSync(second.fd), again: fstatSync(first.fd) };
      }),
    );

    pointTest('1.6', { variant, needs }, () => expect(files().first.size).toBe(PAGE));
    pointTest('1.7', { variant, needs }, () => expect(files().second.size).toBe(2 * PAGE));
    pointTest('1.8', { variant, needs }, () => expect(files().again.size).toBe(PAGE));
    pointTest('1.9', { variant, needs }, () => {
      const { first, second, again } = files();
      expect([second.ino === first.ino, again.ino === first.ino]).toEqual([false, true]);
    });
  });
}

it('each point has an id of its own, in as many points as there are to each section', () => {
  expect(new Set(POINTS.map(({ id }) => id)).size).toBe(POINTS.length);
  expect(Object.values(tally(POINTS.map(({ section }) => section)))).toEqual([44, 30, 17, 7, 8, 11, 20, 2]);
  expect([POINTS[0]!.id, POINTS.at(-1)!.id]).toEqual(['1.1', '8.2']);
  expect(() => point('1.45')).toThrow(RangeError);
});
