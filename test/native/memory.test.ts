// Mappings, their buffers and what keeps them alive.
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { native } from '../../lib/native.ts';
import { EXIT_IO, hasKvm, makeGuest, OUT_HLT, settledCensus } from './guest.ts';

const MADV_DONTNEED = 4;
const MADV_POPULATE_WRITE = 23;
const F_SEAL_SHRINK = 2;
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const anonymous = { shared: false, hugetlb: 0, noreserve: false };
const code = (expected: string) => expect.objectContaining({ code: expected });
const bytes = (text: string) => new TextEncoder().encode(text);

let before: ReturnType<ReturnType<typeof native>['census']>;
beforeEach(() => {
  before = native().census();
});
afterEach(async () => {
  expect(await settledCensus(before)).toEqual(before);
});

test('anonymous memory is read, written, filled and viewed', () => {
  const mapping = native().mapAnonymous(0x10000n, anonymous);
  expect([mapping.length, mapping.stable, mapping.closed]).toEqual([0x10000n, true, false]);
  mapping.write(0xffffn - 4n, bytes('hello'));
  const view = new Uint8Array(mapping.buffer(0xf000n, 0x1000));
  expect(Buffer.from(view.subarray(0xffb)).toString()).toBe('hello');
  mapping.fill(0n, 0x10000n, 7);
  expect(view[5]).toBe(7);
  const into = new Uint8Array(3);
  mapping.read(0n, into);
  expect([...into]).toEqual([7, 7, 7]);
  expect(mapping.resident(0n, 0x10000n)).toBe(0x10000n);
  mapping.madvise(0n, 0x10000n, MADV_DONTNEED);
  expect(view[5]).toBe(0);
  mapping.close();
  mapping.close();
  expect(view.byteLength).toBe(0);
  expect(() => mapping.read(0n, into)).toThrow(code('ERR_KVM_CLOSED'));
  expect(() => mapping.length).toThrow(code('ERR_KVM_CLOSED'));
});

test('a mapping is copied onto itself', () => {
  const mapping = native().mapAnonymous(0x1000n, anonymous);
  mapping.write(0n, bytes('abcdef'));
  mapping.read(0n, new Uint8Array(mapping.buffer(1n, 5)));
  const into = new Uint8Array(6);
  mapping.read(0n, into);
  expect(Buffer.from(into).toString()).toBe('aabcde');
  mapping.close();
});

test('ranges outside are refused, also those that wrap', () => {
  const mapping = native().mapAnonymous(0x1000n, anonymous);
  const one = new Uint8Array(1);
  const max = 2n ** 64n - 1n;
  for (const offset of [0x1000n, max, max - 0xfffn]) expect(() => mapping.read(offset, one)).toThrow(RangeError);
  expect(() => mapping.fill(1n, max, 0)).toThrow(RangeError);
  expect(() => mapping.buffer(0n, 0x1001)).toThrow(RangeError);
  expect(() => mapping.buffer(0n, 2 ** 32)).toThrow(RangeError);
  expect(() => mapping.madvise(1n, 0x1000n, MADV_DONTNEED)).toThrow(RangeError);
  expect(() => mapping.madvise(0n, 0x2000n, MADV_DONTNEED)).toThrow(RangeError);
  expect(() => mapping.madvise(0n, 0x1000n, 10)).toThrow(TypeError);
  expect(() => mapping.read(0n, 'x' as never)).toThrow(TypeError);
  expect(() => mapping.read(0 as never, one)).toThrow(TypeError);
  expect(() => mapping.read(-1n, one)).toThrow(RangeError);
  mapping.read(0x1000n, new Uint8Array(0));
  expect(() => native().mapAnonymous(0x1001n, anonymous)).toThrow(RangeError);
  expect(() => native().mapAnonymous(0n, anonymous)).toThrow(RangeError);
  expect(() => native().mapAnonymous(max - 0xfffn, anonymous)).toThrow(RangeError);
  mapping.close();
});

test('advice and allocation on pool threads keep the object open', async () => {
  const mapping = native().mapAnonymous(0x100000n, anonymous);
  const advised = mapping.madviseAsync(0n, 0x100000n, MADV_POPULATE_WRITE);
  mapping.close();
  await advised;
  const memfd = native().createMemfd('test', 0, false);
  memfd.ftruncate(0x100000n);
  const allocated = memfd.fallocateAsync(0, 0n, 0x200000n);
  memfd.close();
  await allocated;
  expect(memfd.fd).toBe(-1);
  expect(() => memfd.size).toThrow(code('ERR_KVM_CLOSED'));
});

test('failures on pool threads reject with errno and system call', async () => {
  const memfd = native().createMemfd('test', 0, false);
  await expect(memfd.fallocateAsync(PUNCH_HOLE, 0n, 0x1000n)).rejects.toMatchObject({
    code: 'EOPNOTSUPP',
    errno: -95,
    syscall: 'fallocate',
  });
  memfd.close();
});

test('a memfd is stable only once it is sealed against shrinking', () => {
  const memfd = native().createMemfd('test', 0, true);
  memfd.ftruncate(0x2000n);
  expect(memfd.size).toBe(0x2000n);
  const loose = native().mapFile(memfd, 0n, 0x2000n, true, true);
  expect(loose.stable).toBe(false);
  expect(() => loose.buffer(0n, 1)).toThrow(code('ERR_KVM_STATE'));
  memfd.addSeals(F_SEAL_SHRINK);
  const sealed = native().mapFile(memfd, 0n, 0x2000n, true, true);
  expect(sealed.stable).toBe(true);
  const view = new Uint8Array(sealed.buffer(0n, 0x2000));
  loose.write(0xffen, bytes('across'));
  expect(Buffer.from(view.subarray(0xffe, 0x1004)).toString()).toBe('across');
  memfd.fallocate(PUNCH_HOLE | KEEP_SIZE, 0n, 0x2000n);
  expect(view[0xffe]).toBe(0);
  const beyond = native().mapFile(memfd, 0x1000n, 0x2000n, true, true);
  const readOnly = native().mapFile(memfd, 0n, 0x1000n, true, false);
  expect([beyond.stable, readOnly.stable]).toEqual([false, false]);
  for (const handle of [loose, sealed, beyond, readOnly, memfd]) handle.close();
});

test('a file that was truncated gives EFAULT, not SIGBUS', () => {
  const directory = mkdtempSync(join(tmpdir(), 'node-kvm-'));
  const path = join(directory, 'memory');
  writeFileSync(path, Buffer.alloc(0x3000, 1));
  const file = native().openFile(path, true);
  const mapping = native().mapFile(file, 0n, 0x3000n, true, true);
  truncateSync(path, 0x1000);
  const into = new Uint8Array(0x1000);
  mapping.read(0n, into);
  expect(into[0]).toBe(1);
  expect(() => mapping.read(0x1000n, into)).toThrow(code('EFAULT'));
  expect(() => mapping.write(0x2000n, into)).toThrow(code('EFAULT'));
  expect(() => mapping.fill(0n, 0x3000n, 3)).toThrow(code('EFAULT'));
  const readOnly = native().openFile(path, false);
  const seen = native().mapFile(readOnly, 0n, 0x1000n, true, false);
  expect(() => seen.write(0n, new Uint8Array(1))).toThrow(code('EFAULT'));
  expect(() => native().mapFile(readOnly, 0n, 0x1000n, true, true)).toThrow(code('EACCES'));
  for (const handle of [mapping, file, readOnly, seen]) handle.close();
  rmSync(directory, { recursive: true });
});

test('errors of the system carry code, errno and system call', () => {
  expect(() => native().openSystem('/nonexistent')).toThrow(
    expect.objectContaining({
      code: 'ENOENT',
      errno: -2,
      syscall: 'open',
    }),
  );
  expect(() => native().openSystem('/dev/null')).toThrow(code('ENOTTY'));
  expect(() => native().openSystem('/dev/k\0vm')).toThrow(TypeError);
  expect(() => native().systemFromFd(12345)).toThrow(code('EBADF'));
});

describe.skipIf(!hasKvm)('memslots (need /dev/kvm)', () => {
  test('a mapping lives until its slot is gone', async () => {
    const guest = makeGuest(OUT_HLT);
    const { mappings } = native().census();
    const buffer = guest.memory.buffer(0n, 0x1000);
    guest.memory.close();
    expect(buffer.byteLength).toBe(0);
    expect(native().census().mappings).toBe(mappings);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
    guest.vm.setUserMemoryRegion(1, 0, 0, 0n, 0n, null, 0n, null, 0n);
    expect(native().census().mappings).toBe(mappings - 1);
    guest.close();
  });

  test('a buffer that the program still has is empty after close, and the program lives', () => {
    const guest = makeGuest(OUT_HLT);
    const views = Array.from({ length: 100 }, (_, i) => new Uint8Array(guest.memory.buffer(BigInt(i), 100)));
    guest.close();
    for (const view of views) {
      view[0] = 1;
      expect(view.length).toBe(0);
    }
  });

  test('a slot without memory never reaches the memory of this process', () => {
    const guest = makeGuest(OUT_HLT);
    expect(() => guest.vm.setUserMemoryRegion(1, 1, 0, 0x100000n, 0x1000n, null, 0n, null, 0n)).toThrow(TypeError);
    guest.close();
  });

  test('failed calls leave the slots as they were', () => {
    const guest = makeGuest(OUT_HLT);
    const { mappings } = native().census();
    expect(() => guest.vm.setUserMemoryRegion(1, 1, 0, 0x8000n, 0x1000n, guest.memory, 0n, null, 0n)).toThrow(
      expect.objectContaining({ code: 'EEXIST', syscall: 'KVM_SET_USER_MEMORY_REGION' }),
    );
    expect(() => guest.vm.setUserMemoryRegion(1, 1, 0, 0x100000n, 0x1000n, guest.memory, 0x10000n, null, 0n)).toThrow(
      RangeError,
    );
    expect(() => guest.vm.setUserMemoryRegion(3 as never, 1, 0, 0n, 0n, null, 0n, null, 0n)).toThrow(RangeError);
    expect(native().census().mappings).toBe(mappings);
    guest.close();
  });

  test('two hundred VMs, closed', () => {
    for (let i = 0; i < 200; i++) {
      const guest = makeGuest(OUT_HLT);
      expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
      guest.close();
    }
  });

  test('a descriptor is adopted as a duplicate', () => {
    const fd = openSync('/dev/kvm', 'r+');
    const system = native().systemFromFd(fd);
    closeSync(fd);
    expect(system.ioctl(0xae00)).toBe(12);
    system.close();
  });
});
