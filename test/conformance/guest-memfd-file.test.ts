/** A guest_memfd as a file: no I/O, its size, allocating and punching. */
import { fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { describe, expect } from 'vitest';
import type { GuestMemfd } from '../../lib/index.ts';
import { bits, once, outcome, outcomes, PAGE, pointTest, tally } from './support.ts';
import { fallocateRaw, KINDS, withFile } from './support-guest-memfd.ts';

const SIZE = 4 * PAGE;
const KEEP_SIZE = 1;
const PUNCH = 2 | KEEP_SIZE;

const PUNCHES = [
  [0, 1],
  [0, PAGE - 1],
  [0, PAGE + 1],
  [1, 1],
  [1, PAGE - 1],
  [1, PAGE],
  [1, PAGE + 1],
  [PAGE, 1],
  [PAGE, PAGE - 1],
  [PAGE, PAGE + 1],
] as const;

for (const kind of KINDS) {
  const { variant, needs } = kind;
  const test = (id: string, run: () => void): void => pointTest(id, { variant, needs }, run);

  describe(`I/O of a ${variant}`, () => {
    const io = once(() =>
      withFile(kind, SIZE, ({ fd }) => {
        const bytes = Buffer.alloc(PAGE);
        return {
          read: outcome(() => readSync(fd, bytes)),
          write: outcome(() => writeSync(fd, bytes)),
          pread: outcome(() => readSync(fd, bytes, 0, PAGE, 0)),
          pwrite: outcome(() => writeSync(fd, bytes, 0, PAGE, 0)),
        };
      }),
    );

    test('1.10', () => expect(io().read).toBe('EINVAL'));
    test('1.11', () => expect(io().write).toBe('EINVAL'));
    test('1.12', () => expect(io().pread).toBe('ESPIPE'));
    test('1.13', () => expect(io().pwrite).toBe('ESPIPE'));
  });

  describe(`the size of a ${variant}`, () => {
    const stat = once(() => withFile(kind, SIZE, ({ fd }) => fstatSync(fd)));

    test('1.14', () => expect(stat().isFile()).toBe(true));
    test('1.15', () => expect(stat().size).toBe(SIZE));
    test('1.16', () => expect(stat().blksize).toBe(PAGE));
  });

  describe(`allocation in a ${variant}`, () => {
    // One file from first to last, as the order matters: what is allocated is punched later. Each is asked for twice,
    // of the kernel and of the method, which refuses some by itself.
    const played = once(() =>
      withFile(kind, SIZE, (file) => {
        const both = (mode: number, offset: number, length: number): readonly [string, string] => [
          fallocateRaw(file, mode, offset, length),
          outcome(() => (mode === PUNCH ? file.punchHole(offset, length) : file.fallocate(offset, length))),
        ];
        return {
          whole: both(KEEP_SIZE, 0, SIZE),
          punchBetween: both(PUNCH, PAGE - 1, PAGE),
          allocateAtEnd: both(KEEP_SIZE, SIZE, PAGE),
          allocateBehind: both(KEEP_SIZE, SIZE + PAGE, PAGE),
          punchAtEnd: both(PUNCH, SIZE, PAGE),
          punchBehind: both(PUNCH, SIZE + PAGE, PAGE),
          punchShort: both(PUNCH, PAGE, PAGE - 1),
          punch: both(PUNCH, PAGE, PAGE),
          again: both(KEEP_SIZE, PAGE, PAGE),
          size: fstatSync(file.fd).size,
        };
      }),
    );
    const works = ['success', 'success'];
    const refused = ['EINVAL', 'RangeError'];

    test('1.17', () => expect([...played().whole, played().size]).toEqual([...works, SIZE]));
    test('1.18', () => expect(played().punchBetween).toEqual(refused));
    test('1.19', () => expect(played().allocateAtEnd).toEqual(refused));
    test('1.20', () => expect(played().allocateBehind).toEqual(refused));
    test('1.21', () => expect(played().punchAtEnd).toEqual(works));
    test('1.22', () => expect(played().punchBehind).toEqual(works));
    test('1.23', () => expect(played().punchShort).toEqual(refused));
    test('1.24', () => expect(played().punch).toEqual(works));
    test('1.25', () => expect(played().again).toEqual(works));

    test('1.26', () =>
      withFile(kind, SIZE, (file) => {
        const answers = PUNCHES.map(([offset, length]) => fallocateRaw(file, PUNCH, offset, length));
        expect(tally(answers)).toEqual({ EINVAL: 10 });
        expect(outcomes(PUNCHES, ([offset, length]) => file.punchHole(offset, length))).toEqual({ RangeError: 10 });
      }));

    test('1.27', () =>
      withFile(kind, SIZE, (file) => {
        expect(otherModes(file)).toEqual({ EOPNOTSUPP: 2 + 2 * 29 });
        expect(outcomes([0, PAGE, SIZE, 2 * SIZE], (size) => ftruncateSync(file.fd, size))).toEqual({ EINVAL: 4 });
        expect(fstatSync(file.fd).size).toBe(SIZE);
      }));
  });
}

/** Without keep-size, and each other bit of the mode, without and with keep-size. */
function otherModes(file: GuestMemfd): Record<string, number> {
  const modes = [0, PUNCH & ~KEEP_SIZE];
  for (const bit of bits(31)) if ((Number(bit) & PUNCH) === 0) modes.push(Number(bit), Number(bit) | KEEP_SIZE);
  return tally(modes.map((mode) => fallocateRaw(file, mode, 0, PAGE)));
}
