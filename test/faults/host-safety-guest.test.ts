/**
 * Memory that raises SIGBUS, touched by the guest: KVM_RUN fails and no signal comes. And pool threads of Node that
 * still work on a view when its memory is given back. Each in a process of its own.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { kvmTest } from '../kvm/support.ts';
import { apart, FINE } from './stall-support.ts';
import type { Apart } from './stall-support.ts';

const HUGE = 2 ** 21;
/** l: mov al, [0x8000]; out 0x10, al; jmp l */
const READ_OUT = [0xa0, 0x00, 0x80, 0xe6, 0x10, 0xeb, 0xf9];
/** l: mov al, [0x8000]; jmp l */
const READ = [0xa0, 0x00, 0x80, 0xeb, 0xfb];
/** l: mov [0x8000], al; jmp l */
const WRITE = [0xa2, 0x00, 0x80, 0xeb, 0xfb];

function scratch(): string {
  const directory = mkdtempSync(join(tmpdir(), 'node-kvm-safety-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  return join(directory, 'file');
}

async function fine<Input>(program: (tools: Apart<Input>) => unknown, input: Input): Promise<void> {
  expect(await apart(program, input)).toMatchObject(FINE);
}

/**
 * What KVM_RUN gives: EFAULT where a processor runs the guest. A KVM that runs it by emulation takes what it cannot
 * read for MMIO (6.18).
 */
const UNSERVED = /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'utf8')) ? [-14] : [-14, 6];

const freeHuge = Number(/^HugePages_Free:\s*(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);

function hugeGuestTest(name: string, run: () => unknown): void {
  if (freeHuge >= 2) kvmTest(name, run);
  else it.skip(`${name} [needs 2 free huge pages]`);
}

describe('a guest whose memory is a file', () => {
  kvmTest('that is truncated while it stands gets EFAULT from KVM_RUN, and goes on when the file is back', () =>
    fine(
      async ({ addon, assert, input, load, makeGuest }) => {
        const { truncateSync, writeFileSync } = await load('node:fs');
        writeFileSync(input.path, Buffer.alloc(0x8000, 0x21));
        const { vm, memory, vcpu } = makeGuest(input.code);
        const file = addon.mapFile(addon.openFile(input.path, true), 0n, 0x8000n, true, true);
        vm.setUserMemoryRegion(1, 0, 0, 0n, 0n, null, 0n, null, 0n);
        vm.setUserMemoryRegion(1, 0, 0, 0n, 0x8000n, memory, 0n, null, 0n);
        vm.setUserMemoryRegion(1, 1, 0, 0x8000n, 0x8000n, file, 0n, null, 0n);
        for (let round = 0; round < 3; round++) {
          assert.equal(vcpu.runSync(10_000), 2);
          truncateSync(input.path, 0);
          const result = vcpu.runSync(10_000);
          assert.ok(input.unserved.includes(result), `${result}`);
          assert.throws(() => file.read(0n, new Uint8Array(1)), { code: 'EFAULT' });
          truncateSync(input.path, 0x8000);
        }
        assert.equal(vcpu.runSync(10_000), 2);
      },
      { path: scratch(), code: READ_OUT, unserved: UNSERVED },
    ),
  );

  for (const [what, code] of [
    ['reads', READ],
    ['writes', WRITE],
  ] as const) {
    kvmTest(`that is truncated while it runs and ${what}`, () =>
      fine(
        async ({ addon, assert, input, load, makeGuest }) => {
          const { truncateSync, writeFileSync } = await load('node:fs');
          const { vm, memory, vcpu } = makeGuest(input.code);
          writeFileSync(input.path, Buffer.alloc(0x8000));
          const file = addon.mapFile(addon.openFile(input.path, true), 0n, 0x8000n, true, true);
          vm.setUserMemoryRegion(1, 0, 0, 0n, 0n, null, 0n, null, 0n);
          vm.setUserMemoryRegion(1, 0, 0, 0n, 0x8000n, memory, 0n, null, 0n);
          vm.setUserMemoryRegion(1, 1, 0, 0x8000n, 0x8000n, file, 0n, null, 0n);
          let ended = (_code: number) => {};
          vcpu.onComplete((result) => ended(result));
          for (let round = 0; round < 20; round++) {
            const result = new Promise<number>((resolve) => {
              ended = resolve;
            });
            vcpu.startRun();
            await new Promise((resolve) => setTimeout(resolve, round % 5));
            truncateSync(input.path, 0);
            const code = await result;
            assert.ok(input.unserved.includes(code), `${code}`);
            truncateSync(input.path, 0x8000);
          }
          vcpu.close();
        },
        { path: scratch(), code, unserved: UNSERVED },
      ),
    );
  }

  kvmTest('that holds its code is truncated', () =>
    fine(
      async ({ addon, assert, input, load, makeGuest }) => {
        const { truncateSync, writeFileSync } = await load('node:fs');
        const { vm, vcpu } = makeGuest([0xf4]);
        const bytes = Buffer.alloc(0x10000);
        bytes.set(input.code, 0x1000);
        writeFileSync(input.path, bytes);
        const file = addon.mapFile(addon.openFile(input.path, true), 0n, 0x10000n, true, true);
        vm.setUserMemoryRegion(1, 0, 0, 0n, 0n, null, 0n, null, 0n);
        vm.setUserMemoryRegion(1, 0, 0, 0n, 0x10000n, file, 0n, null, 0n);
        assert.equal(vcpu.runSync(10_000), 2);
        truncateSync(input.path, 0);
        const result = vcpu.runSync(10_000);
        // An internal error where KVM was emulating and found no instruction.
        assert.ok(input.unserved.includes(result), `${result}`);
      },
      { path: scratch(), code: [0xe6, 0x10, 0xeb, 0xfc], unserved: [...UNSERVED, 17] },
    ),
  );
});

describe('a guest whose memory', () => {
  hugeGuestTest('is a huge page that is gone', () =>
    fine(
      ({ addon, assert, input, makeGuest }) => {
        const size = BigInt(input.huge);
        const { vm, vcpu } = makeGuest(input.code);
        const take = () => addon.mapAnonymous(size, { shared: false, hugetlb: 21, noreserve: true });
        const mapping = take();
        vm.setUserMemoryRegion(1, 1, 0, size, size, mapping, 0n, null, 0n);
        // DS to the huge page: what the guest calls 0x8000 is in there.
        const sregs = new Uint8Array(312);
        vcpu.ioctl(0x8138ae83, sregs);
        new DataView(sregs.buffer).setBigUint64(24, size, true);
        vcpu.ioctl(0x4138ae84, sregs);
        assert.equal(vcpu.runSync(10_000), 2);
        mapping.madvise(0n, size, 4);
        const others: unknown[] = [];
        assert.throws(() => {
          for (;;) others.push(take());
        });
        const result = vcpu.runSync(10_000);
        assert.ok(input.unserved.includes(result), `${result}`);
      },
      { huge: HUGE, code: READ_OUT, unserved: UNSERVED },
    ),
  );

  kvmTest('is a guest_memfd whose pages are private to nobody', { needs: ['mapped-guest-memfd'] }, () =>
    fine(
      ({ addon, assert, input, makeGuest }) => {
        const { vm, memory, vcpu } = makeGuest(input.code);
        const memfd = vm.createGuestMemfd(0x8000n, 1n);
        const mapping = addon.mapFile(memfd, 0n, 0x8000n, true, true);
        vm.setUserMemoryRegion(1, 0, 0, 0n, 0n, null, 0n, null, 0n);
        vm.setUserMemoryRegion(1, 0, 0, 0n, 0x8000n, memory, 0n, null, 0n);
        vm.setUserMemoryRegion(1, 1, 0, 0x8000n, 0x8000n, mapping, 0n, null, 0n);
        const result = vcpu.runSync(10_000);
        assert.ok(input.unserved.includes(result), `${result}`);
      },
      { code: READ_OUT, unserved: UNSERVED },
    ),
  );
});

describe('what still works on a view when its memory is given back', () => {
  it('is a read: it lands nowhere', () =>
    fine(
      async ({ addon, assert, input, load }) => {
        const fs = await load('node:fs');
        const { execFileSync } = await load('node:child_process');
        execFileSync('mkfifo', [input.path]);
        const make = () => addon.mapAnonymous(65536n, { shared: false, hugetlb: 0, noreserve: false });
        const mapping = make();
        // Both directions, so that opening waits for nobody.
        const fd = fs.openSync(input.path, 'r+');
        const read = new Promise<number>((resolve, reject) => {
          fs.read(
            fd,
            new Uint8Array(mapping.buffer(0n, 65536)),
            0,
            65536,
            null,
            (error: Error | null, count: number) => (error === null ? resolve(count) : reject(error)),
          );
        });
        await new Promise((resolve) => setTimeout(resolve, 50));
        mapping.close();
        const others = Array.from({ length: 64 }, make);
        fs.writeSync(fd, Buffer.alloc(4096, 0x55));
        assert.equal(await read, 4096);
        const bytes = new Uint8Array(65536);
        for (const other of others) {
          other.read(0n, bytes);
          assert.ok(
            bytes.every((byte) => byte === 0),
            'a later mapping has the bytes',
          );
        }
      },
      { path: scratch() },
    ));

  it('is crypto or zlib, reading and writing', () =>
    fine(async ({ addon, load }) => {
      const [crypto, fs, zlib] = await Promise.all(['node:crypto', 'node:fs', 'node:zlib'].map(load));
      const size = 2 ** 24;
      const done: Promise<unknown>[] = [];
      const works: ((view: Uint8Array, end: () => void) => void)[] = [
        (view, end) => crypto.randomFill(view, end),
        (view, end) => zlib.deflate(view, { level: 9 }, end),
        (view, end) => zlib.gzip(view, end),
        (view, end) => zlib.brotliCompress(view.subarray(0, 2 ** 20), end),
        (view, end) => void crypto.subtle.digest('SHA-512', view).then(end, end),
        (view, end) => crypto.scrypt(view, 'salt', 32, end),
        (view, end) => {
          const fd = fs.openSync('/dev/zero', 'r');
          fs.read(fd, view, 0, view.length, null, () => (fs.closeSync(fd), end()));
        },
        (view, end) => {
          const fd = fs.openSync('/dev/null', 'w');
          fs.writev(fd, [view, view], () => (fs.closeSync(fd), end()));
        },
      ];
      for (let round = 0; round < 4; round++) {
        for (const work of works) {
          const mapping = addon.mapAnonymous(BigInt(size), { shared: round % 2 === 0, hugetlb: 0, noreserve: false });
          done.push(new Promise<void>((resolve) => work(new Uint8Array(mapping.buffer(0n, size)), resolve)));
          setTimeout(() => mapping.close(), round * 3);
        }
        await Promise.all(done.splice(0));
      }
    }, {}));

  const hugeTest = (name: string, run: () => unknown): void =>
    freeHuge >= 2 ? it(name, run) : it.skip(`${name} [needs 2 free huge pages]`);
  hugeTest('holds huge pages, even after its handle is closed', () =>
    fine(
      async ({ addon, assert, input, load }) => {
        const zlib = await load('node:zlib');
        const size = BigInt(input.huge);
        const take = () => addon.mapAnonymous(size, { shared: false, hugetlb: 21, noreserve: true });
        const mapping = take();
        mapping.fill(0n, size, 1);
        const other = addon.adoptMapping(mapping.token());
        const view = new Uint8Array(mapping.buffer(0n, input.huge));
        let state = 1;
        for (let at = 0; at < view.length; at++) view[at] = (state = (state * 1103515245 + 12345) & 0x7fffffff) >> 16;
        const work = new Promise((resolve) => zlib.brotliCompress(view, resolve));
        await new Promise((resolve) => setTimeout(resolve, 5));
        mapping.close();
        // Nobody can tell whether a pool thread still reads there.
        assert.throws(() => other.madvise(0n, size, 4), { code: 'EBUSY' });
        const others: unknown[] = [];
        assert.throws(() => {
          for (;;) others.push(take());
        });
        await work;
      },
      { huge: HUGE },
    ),
  );
});
