/** Mapping a guest_memfd into the host: who may, what it shows, and where the kernel raises SIGBUS. */
import { existsSync } from 'node:fs';
import { describe, expect } from 'vitest';
import { HostMapping } from '../../lib/index.ts';
import type { GuestMemfd } from '../../lib/index.ts';
import { nativeOf } from '../../lib/kvm/handle.ts';
import { native } from '../../lib/native.ts';
import { once, outcome, PAGE, pointTest, tally, TWO_MIB } from './support.ts';
import { INIT_SHARED, KINDS, MMAP, withFile } from './support-guest-memfd.ts';
import type { Kind } from './support-guest-memfd.ts';
import { askKernel, lacksCompiler } from './support-kernel.ts';

const SIZE = 4 * PAGE;
const PATTERN = 0xaa;
const MADV_COLLAPSE = 25;

const closed = KINDS.filter(({ flags }) => (flags & MMAP) === 0n);
const open = KINDS.filter(({ flags }) => (flags & MMAP) !== 0n);
const shared = open.filter(({ flags }) => (flags & INIT_SHARED) !== 0n);
const unshared = open.filter(({ flags }) => (flags & INIT_SHARED) === 0n);

/** How a mapping fails where the kernel decides, and where the method that knows the flags does. */
const map = (file: GuestMemfd, size: number, asShared = true): readonly string[] => [
  outcome(() => HostMapping.file(file, { size, shared: asShared })),
  outcome(() => file.map(0, size)),
];

/** Bytes by value. */
const count = (bytes: Uint8Array): Record<string, number> => tally(Array.from(bytes, String));

describe('a file that the host may not map', () => {
  for (const kind of closed) {
    const { variant, needs } = kind;
    pointTest('1.28', { variant, needs }, () =>
      withFile(kind, SIZE, (file) => {
        expect(map(file, SIZE)).toEqual(['ENODEV', 'ERR_KVM_UNSUPPORTED']);
      }),
    );

    pointTest('1.29', { variant, needs }, () =>
      withFile(kind, SIZE, (file) => {
        expect([map(file, PAGE), map(file, SIZE)]).toEqual(Array(2).fill(['ENODEV', 'ERR_KVM_UNSUPPORTED']));
      }),
    );
  }
});

describe('a file that the host may map', () => {
  for (const kind of open) {
    const { variant, needs } = kind;
    pointTest('1.30', { variant, needs }, () =>
      withFile(kind, SIZE, (file) => {
        expect([map(file, PAGE, false)[0], map(file, SIZE, false)[0]]).toEqual(['EINVAL', 'EINVAL']);
      }),
    );
  }
  for (const kind of shared) inUse(kind);
});

function inUse(kind: Kind): void {
  const { variant, needs } = kind;
  const played = once(() =>
    withFile(kind, SIZE, (file) => {
      using mapping = file.map();
      const bytes = mapping.view();
      bytes.fill(PATTERN);
      const filled = count(bytes);
      file.punchHole(0, PAGE);
      const punched = [count(bytes.subarray(0, PAGE)), count(bytes.subarray(PAGE)), count(mapping.read(0, PAGE))];
      bytes.fill(PATTERN, 0, PAGE);
      return { filled, punched, again: count(bytes), elsewhere: throughAnother(file) };
    }),
  );

  pointTest('1.31', { variant, needs }, () => expect(played().filled).toEqual({ [PATTERN]: SIZE }));
  pointTest('1.32', { variant, needs }, () => {
    expect(played().punched).toEqual([{ 0: PAGE }, { [PATTERN]: SIZE - PAGE }, { 0: PAGE }]);
  });
  pointTest('1.33', { variant, needs }, () => {
    expect([played().again, played().elsewhere]).toEqual([{ [PATTERN]: SIZE }, { [PATTERN]: SIZE }]);
  });

  // node-kvm maps nothing past the end, and through the addon alone it is memory that is copied by the kernel: an error
  // where an access would raise a signal.
  pointTest('1.34', { variant: `${variant}: an error, no signal`, needs }, () =>
    withFile(kind, SIZE, (file) => {
      expect(outcome(() => HostMapping.file(file, { size: 4 * SIZE }))).toBe('RangeError');
      expect(outcome(() => file.map(0, 4 * SIZE))).toBe('RangeError');
      const mapping = native().mapFile(nativeOf(file), 0n, BigInt(4 * SIZE), true, true);
      try {
        expect([mapping.length, mapping.stable]).toEqual([BigInt(4 * SIZE), false]);
        expect(outcome(() => mapping.buffer(0n, SIZE))).toBe('ERR_KVM_STATE');
        expect(outcome(() => mapping.write(0n, new Uint8Array(4 * SIZE).fill(PATTERN)))).toBe('EFAULT');
        expect(outcome(() => mapping.fill(0n, BigInt(4 * SIZE), PATTERN))).toBe('EFAULT');
        expect(outcome(() => mapping.read(BigInt(SIZE), new Uint8Array(1)))).toBe('EFAULT');
        const bytes = new Uint8Array(SIZE);
        mapping.read(0n, bytes);
        expect(count(bytes)).toEqual({ [PATTERN]: SIZE });
      } finally {
        mapping.close();
      }
    }),
  );

  pointTest('1.36', { variant, needs }, () =>
    withFile(kind, TWO_MIB, (file) => {
      using mapping = file.map();
      mapping.madvise(0, TWO_MIB, 'hugepage');
      expect(outcome(() => mapping.madvise(0, TWO_MIB, MADV_COLLAPSE))).toBe('TypeError');
      mapping.fill(0, TWO_MIB, PATTERN);
      mapping.madvise(0, TWO_MIB, 'dontneed');
      expect(count(mapping.view())).toEqual({ [PATTERN]: TWO_MIB });
    }),
  );
}

function throughAnother(file: GuestMemfd): Record<string, number> {
  using mapping = file.map();
  return count(mapping.read(0, SIZE));
}

describe('a file that the host may map, of memory that is private', () => {
  for (const kind of unshared) {
    const { variant, needs } = kind;
    pointTest('1.35', { variant: `${variant}: an error, no signal`, needs }, () =>
      withFile(kind, SIZE, (file) => {
        expect(outcome(() => file.map())).toBe('ERR_KVM_UNSUPPORTED');
        using mapping = HostMapping.file(file);
        expect([mapping.length, mapping.stable]).toEqual([SIZE, false]);
        expect(outcome(() => mapping.view())).toBe('ERR_KVM_UNSUPPORTED');
        expect(outcome(() => mapping.write(0, Uint8Array.of(1)))).toBe('EFAULT');
        expect(outcome(() => mapping.read(0, 1))).toBe('EFAULT');
      }),
    );
  }
});

describe('the kernel itself', () => {
  const options = { variant: 'in a child process', needs: ['mapped-guest-memfd'], lacks: lacksCompiler } as const;

  pointTest('1.34', options, () => {
    expect(askKernel('past-end')).toEqual({ write: 'BUS', read: 'BUS', kept: SIZE });
  });
  pointTest('1.35', options, () => expect(askKernel('not-shared')).toEqual({ write: 'BUS', read: 'BUS' }));
  pointTest('1.36', options, () => {
    expect(askKernel('huge')).toEqual({ advise: 'success', collapse: 'EINVAL', drop: 'success', read: 'nothing' });
  });
});

/** Where there is a second node, what lacks is a way to say mbind(2). */
const lacks = existsSync('/sys/devices/system/node/node1') ? 'NUMA policies in the API' : 'a host with 2 NUMA nodes';
for (const id of ['1.37', '1.38', '1.39', '1.40', '1.41']) pointTest(id, { lacks }, () => undefined);
