/** Host memory and files, as a guest's memory or by themselves. These need no KVM, only the addon. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { KvmSystemError } from '../../lib/errors.ts';
import { HostFile, HostMapping } from '../../lib/kvm/index.ts';
import { native } from '../../lib/native.ts';

const PAGE = 4096;
const CLOSED = expect.objectContaining({ code: 'ERR_KVM_CLOSED' }) as Error;
let before: unknown;

beforeEach(() => {
  before = native().census();
});
afterEach(() => {
  expect(native().census()).toEqual(before);
});

function file(content: Buffer): string {
  const directory = mkdtempSync(join(tmpdir(), 'node-kvm-file-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'file');
  writeFileSync(path, content);
  return path;
}

describe('anonymous memory', () => {
  for (const shared of [false, true]) {
    it(`is zeroed, read, written, viewed and filled, ${shared ? 'shared' : 'private'}`, () => {
      using mapping = HostMapping.anonymous(4 * PAGE, { shared });
      expect([mapping.length, mapping.stable, mapping.closed]).toEqual([4 * PAGE, true, false]);
      mapping.write(10, Uint8Array.of(1, 2, 3));
      const into = new Uint8Array(3);
      mapping.read(10, into);
      expect([...into]).toEqual([1, 2, 3]);
      expect([...mapping.read(9, 3)]).toEqual([0, 1, 2]);
      const view = mapping.view(10, 2);
      view[0] = 9;
      expect(mapping.read(10, 1)[0]).toBe(9);
      mapping.fill(PAGE, PAGE, 0xee);
      expect(mapping.view(PAGE, PAGE).every((byte) => byte === 0xee)).toBe(true);
      expect(mapping.resident()).toBeGreaterThanOrEqual(2 * PAGE);
      mapping.madvise(0, 4 * PAGE, shared ? 'remove' : 'dontneed');
      expect(mapping.view().every((byte) => byte === 0)).toBe(true);
    });
  }

  it('is given back on another thread', async () => {
    using mapping = HostMapping.anonymous(64 * PAGE);
    await mapping.madviseAsync(0, 64 * PAGE, 'populate-write');
    expect(mapping.resident()).toBe(64 * PAGE);
    mapping.write(0, Uint8Array.of(5));
    await mapping.madviseAsync(0, PAGE, 'dontneed');
    expect(mapping.read(0, 1)[0]).toBe(0);
  });

  it('takes its views away when it is closed, and another handle keeps it', () => {
    const mapping = HostMapping.anonymous(PAGE);
    mapping.write(0, Uint8Array.of(7));
    const other = HostMapping.adopt(structuredClone(mapping.share()));
    const again = mapping.again();
    const view = mapping.view();
    mapping.close();
    mapping.close();
    expect(view.byteLength).toBe(0);
    expect([other.read(0, 1)[0], again.view()[0]]).toEqual([7, 7]);
    other.close();
    again.close();
    for (const use of [
      () => mapping.view(),
      () => mapping.read(0, 1),
      () => mapping.write(0, Uint8Array.of(1)),
      () => mapping.fill(0, 1, 1),
      () => mapping.madvise(0, PAGE, 'dontneed'),
      () => mapping.resident(),
      () => mapping.share(),
      () => mapping.again(),
    ])
      expect(use).toThrow(CLOSED);
    expect(() => HostMapping.adopt({ kind: 'node-kvm:vm' } as never)).toThrow(TypeError);
  });

  it('of huge pages comes or says what is missing', () => {
    try {
      using mapping = HostMapping.anonymous(2 ** 21, { hugetlb: 0x200000 });
      mapping.write(0, Uint8Array.of(1));
    } catch (error) {
      expect(error).toBeInstanceOf(KvmSystemError);
      expect(error).toMatchObject({
        code: 'ENOMEM',
        hint: expect.stringMatching(/huge pages.*nr_hugepages/) as string,
      });
    }
    expect(() => HostMapping.anonymous(PAGE, { hugetlb: 0x200000 })).toThrow(RangeError);
    expect(() => HostMapping.anonymous(2 ** 21, { hugetlb: 4096 as never })).toThrow(TypeError);
  });

  it('refuses what is not a size, an option or a range', () => {
    for (const size of [0, -4096, 4095, 1.5, Number.NaN, 2 ** 60]) {
      expect(() => HostMapping.anonymous(size)).toThrow(RangeError);
    }
    expect(() => HostMapping.anonymous(4096n as never)).toThrow(/Expected a number for size.*without the n/);
    expect(() => HostMapping.anonymous(PAGE, { Shared: true } as never)).toThrow(/did you mean shared/);
    expect(() => HostMapping.anonymous(PAGE, { shared: 1 } as never)).toThrow(TypeError);
    using mapping = HostMapping.anonymous(2 * PAGE);
    for (const [offset, length] of [
      [-1, 1],
      [0, 2 * PAGE + 1],
      [2 * PAGE, 1],
      [2 * PAGE + 1, 0],
      [0.5, 1],
    ] as const) {
      expect(() => mapping.view(offset, length)).toThrow(RangeError);
      expect(() => mapping.read(offset, length)).toThrow(RangeError);
      expect(() => mapping.fill(offset, length, 1)).toThrow(RangeError);
    }
    expect(() => mapping.write(2 * PAGE - 1, new Uint8Array(2))).toThrow(RangeError);
    expect(() => mapping.write(0, [1] as never)).toThrow(TypeError);
    expect(() => mapping.read(0n as never, 1)).toThrow(TypeError);
    expect(() => mapping.fill(0, 1, 256)).toThrow(RangeError);
    expect(() => mapping.madvise(1, PAGE, 'dontneed')).toThrow(RangeError);
    expect(() => mapping.madvise(0, 0, 'dontneed')).toThrow(RangeError);
    expect(() => mapping.madvise(0, PAGE, 'nothing' as never)).toThrow(RangeError);
    expect(() => mapping.madvise(0, PAGE, 12345)).toThrow();
  });
});

describe('files', () => {
  it('that are memfds are sealed, and have views', () => {
    using memfd = HostFile.memfd(4 * PAGE, { name: 'test' });
    expect(memfd.size).toBe(BigInt(4 * PAGE));
    using one = memfd.map();
    using two = memfd.map({ offset: PAGE, size: PAGE });
    using own = memfd.map({ shared: false });
    expect([one.stable, two.stable]).toEqual([true, true]);
    expect(one.origin).toEqual({ file: memfd, offset: 0 });
    one.view()[PAGE] = 3;
    expect(two.view()[0]).toBe(3);
    own.write(PAGE, Uint8Array.of(4));
    expect([one.read(PAGE, 1)[0], own.read(PAGE, 1)[0]]).toEqual([3, 4]);
    memfd.fallocate(0, 4 * PAGE);
    memfd.punchHole(PAGE, PAGE);
    expect(two.view()[0]).toBe(0);
  });

  it('of the disk have no views, and fail with EFAULT where they got shorter', () => {
    const path = file(Buffer.alloc(2 * PAGE, 0x21));
    using opened = HostFile.open(path, { writable: true });
    using mapping = opened.map();
    expect(mapping.stable).toBe(false);
    expect(() => mapping.view()).toThrow(/SIGBUS.*read\(\) and\s*write\(\)/);
    mapping.write(PAGE, Uint8Array.of(1));
    expect(mapping.read(PAGE, 2)).toEqual(Uint8Array.of(1, 0x21));
    truncateSync(path, PAGE);
    expect(() => mapping.read(PAGE, 1)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(() => mapping.write(PAGE, Uint8Array.of(1))).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(mapping.read(0, 1)[0]).toBe(0x21);
  });

  it('refuse ranges past their end, and permissions that they do not have', () => {
    const path = file(Buffer.alloc(PAGE));
    using opened = HostFile.open(path);
    expect(() => opened.map({ size: 2 * PAGE })).toThrow(RangeError);
    expect(() => opened.map({ offset: PAGE })).toThrow(RangeError);
    expect(() => opened.map({ offset: 1 })).toThrow(RangeError);
    expect(() => opened.map()).toThrow(expect.objectContaining({ code: 'EACCES', syscall: 'mmap' }));
    using readable = opened.map({ writable: false });
    expect(() => readable.write(0, Uint8Array.of(1))).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(() => HostFile.open(`${path}-not`)).toThrow(/not failed: .*ENOENT/);
    expect(() => HostFile.memfd(1)).toThrow(RangeError);
    expect(() => HostMapping.file({} as never)).toThrow(TypeError);
    const closed = HostFile.memfd(PAGE);
    closed.close();
    expect(() => closed.map()).toThrow(CLOSED);
    expect(() => HostMapping.file(closed)).toThrow(CLOSED);
    expect(() => closed.size).toThrow(CLOSED);
  });
});
