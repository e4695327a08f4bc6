/**
 * Memory whose touching raises SIGBUS: it is not handed out, and what reads or writes it gets an error. Each in a
 * process of its own, which a mistake would end.
 */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { kvmTest } from '../kvm/support.ts';
import { apart, FINE } from './stall-support.ts';
import type { Apart } from './stall-support.ts';

const HUGE = 2 ** 21;

function scratch(): string {
  const directory = mkdtempSync(join(tmpdir(), 'node-kvm-safety-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  return join(directory, 'file');
}

async function fine<Input>(program: (tools: Apart<Input>) => unknown, input: Input): Promise<void> {
  expect(await apart(program, input)).toMatchObject(FINE);
}

/** Huge pages of 2 MiB that are free now. */
function freeHugePages(): number {
  return Number(/^HugePages_Free:\s*(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
}

const hugeTest = (name: string, run: () => unknown): void =>
  freeHugePages() >= 2 ? it(name, run) : it.skip(`${name} [needs 2 free huge pages]`);

describe('a file under a mapping', () => {
  for (const shared of [true, false]) {
    const how = shared ? 'shared' : 'private';
    it(`that is truncated, mapped ${how}`, () =>
      fine(
        async ({ addon, assert, input, load }) => {
          const { truncateSync, writeFileSync: put } = await load('node:fs');
          put(input.path, Buffer.alloc(8192, 0x21));
          const file = addon.openFile(input.path, true);
          const mapping = addon.mapFile(file, 0n, 8192n, input.shared, true);
          // Written before: a private mapping then has a copy of its own, which the truncation takes as well.
          mapping.write(4096n, new Uint8Array(16));
          assert.equal(mapping.stable, false);
          assert.throws(() => mapping.buffer(0n, 1), { code: 'ERR_KVM_STATE' });
          truncateSync(input.path, 4096);
          const fault = { code: 'EFAULT' };
          assert.throws(() => mapping.read(4096n, new Uint8Array(1)), fault);
          assert.throws(() => mapping.read(4090n, new Uint8Array(16)), fault);
          assert.throws(() => mapping.write(4096n, new Uint8Array(1)), fault);
          assert.throws(() => mapping.fill(4096n, 4096n, 1), fault);
          for (const populate of [22, 23]) {
            assert.throws(() => mapping.madvise(4096n, 4096n, populate), { syscall: 'madvise' });
          }
          await assert.rejects(mapping.madviseAsync(4096n, 4096n, 23), { syscall: 'madvise' });
          assert.equal(typeof mapping.resident(0n, 8192n), 'bigint');
          const byte = new Uint8Array(1);
          mapping.read(0n, byte);
          assert.equal(byte[0], 0x21);
          truncateSync(input.path, 8192);
          mapping.read(4096n, byte);
          assert.equal(byte[0], 0);
        },
        { path: scratch(), shared },
      ));
  }

  it('that ends before the mapping does', () =>
    fine(({ addon, assert }) => {
      const memfd = addon.createMemfd('short', 0, true);
      memfd.ftruncate(4096n);
      memfd.addSeals(2);
      const mapping = addon.mapFile(memfd, 0n, 8192n, true, true);
      assert.equal(mapping.stable, false);
      assert.throws(() => mapping.buffer(0n, 1), { code: 'ERR_KVM_STATE' });
      mapping.write(0n, new Uint8Array(4096));
      assert.throws(() => mapping.read(4096n, new Uint8Array(1)), { code: 'EFAULT' });
      const behind = addon.mapFile(memfd, 1n << 40n, 4096n, true, true);
      assert.throws(() => behind.write(0n, new Uint8Array(1)), { code: 'EFAULT' });
    }, {}));

  it('that nobody sealed, though it is a memfd', () =>
    fine(({ addon, assert }) => {
      for (const allowSealing of [true, false]) {
        const memfd = addon.createMemfd('unsealed', 0, allowSealing);
        memfd.ftruncate(8192n);
        const mapping = addon.mapFile(memfd, 0n, 8192n, true, true);
        assert.equal(mapping.stable, false);
        memfd.ftruncate(0n);
        assert.throws(() => mapping.read(0n, new Uint8Array(1)), { code: 'EFAULT' });
        assert.throws(() => mapping.fill(0n, 8192n, 1), { code: 'EFAULT' });
      }
    }, {}));

  it('that is sealed has views, and shrinks for nobody', () =>
    fine(async ({ addon, assert, load }) => {
      const { ftruncateSync, openSync: open } = await load('node:fs');
      const memfd = addon.createMemfd('sealed', 0, true);
      memfd.ftruncate(8192n);
      memfd.addSeals(2);
      const mapping = addon.mapFile(memfd, 0n, 8192n, true, true);
      const view = new Uint8Array(mapping.buffer(0n, 8192));
      assert.throws(() => memfd.ftruncate(4096n), { code: 'EPERM' });
      assert.throws(() => ftruncateSync(open(`/proc/self/fd/${memfd.fd}`, 'r+'), 0), { code: 'EPERM' });
      // Opening it anew with O_TRUNC is the same.
      assert.throws(() => open(`/proc/self/fd/${memfd.fd}`, 'w'), { code: 'EPERM' });
      memfd.fallocate(3, 0n, 8192n);
      view.fill(7);
      assert.equal(view[8191], 7);
    }, {}));

  it('that is no memory at all', () =>
    fine(({ addon, assert }) => {
      for (const path of ['/dev/null', '/proc/self/maps']) {
        const file = addon.openFile(path, false);
        assert.throws(() => addon.mapFile(file, 0n, 4096n, false, false), { syscall: 'mmap' });
      }
      const zero = addon.mapFile(addon.openFile('/dev/zero', true), 0n, 4096n, false, true);
      assert.equal(zero.stable, false);
      zero.write(0n, new Uint8Array(4096));
      const text = addon.mapFile(addon.openFile('/proc/self/exe', false), 0n, 4096n, false, false);
      assert.throws(() => text.buffer(0n, 1), { code: 'ERR_KVM_STATE' });
      assert.throws(() => text.write(0n, new Uint8Array(1)), { code: 'EFAULT' });
    }, {}));
});

describe('huge pages', () => {
  hugeTest('that were given back and are gone from the pool', () =>
    fine(
      ({ addon, assert, input }) => {
        const size = BigInt(input.huge);
        const take = () => addon.mapAnonymous(size, { shared: false, hugetlb: 21, noreserve: true });
        const mapping = take();
        assert.equal(mapping.stable, true);
        mapping.madvise(0n, size, 4);
        assert.equal(mapping.stable, false);
        assert.throws(() => mapping.buffer(0n, 1), { code: 'ERR_KVM_STATE' });
        const others: unknown[] = [];
        // mmap or the populating madvise fails with ENOMEM, whichever finds the pool empty.
        assert.throws(() => {
          for (;;) others.push(take());
        });
        assert.ok(others.length > 0);
        assert.throws(() => mapping.read(0n, new Uint8Array(1)), { code: 'EFAULT' });
        assert.throws(() => mapping.write(0n, new Uint8Array(1)), { code: 'EFAULT' });
        assert.throws(() => mapping.fill(0n, size, 1), { code: 'EFAULT' });
      },
      { huge: HUGE },
    ),
  );

  hugeTest('are not given back under a view', () =>
    fine(
      ({ addon, assert, input }) => {
        const size = BigInt(input.huge);
        const mapping = addon.mapAnonymous(size, { shared: true, hugetlb: 21, noreserve: false });
        const view = new Uint8Array(mapping.buffer(0n, input.huge));
        const other = addon.adoptMapping(mapping.token());
        for (const advice of [4, 9]) assert.throws(() => other.madvise(0n, size, advice), { code: 'EBUSY' });
        view.fill(1);
        assert.equal(view[input.huge - 1], 1);
      },
      { huge: HUGE },
    ),
  );

  hugeTest('of a memfd have no views, since anybody may punch them', () =>
    fine(
      ({ addon, assert, input }) => {
        const size = BigInt(input.huge);
        const memfd = addon.createMemfd('huge', 21, true);
        memfd.ftruncate(size);
        memfd.addSeals(2);
        // Without a reservation, which would keep a page for it.
        const mapping = addon.mapFile(memfd, 0n, size, true, true);
        assert.equal(mapping.stable, false);
        assert.throws(() => mapping.buffer(0n, 1), { code: 'ERR_KVM_STATE' });
        mapping.fill(0n, size, 3);
        memfd.fallocate(3, 0n, size);
        const byte = Uint8Array.of(9);
        mapping.read(0n, byte);
        assert.equal(byte[0], 0);
      },
      { huge: HUGE },
    ),
  );
});

describe('guest_memfd', () => {
  kvmTest('without MMAP is not mapped', { needs: ['private-memory'] }, () =>
    fine(({ addon, assert }) => {
      const vm = addon.openSystem('/dev/kvm').createVm(1n);
      const memfd = vm.createGuestMemfd(0x10000n, 0n);
      assert.throws(() => addon.mapFile(memfd, 0n, 4096n, true, true), { code: 'ENODEV' });
    }, {}),
  );

  kvmTest('whose pages are private is not touched, even mapped', { needs: ['mapped-guest-memfd'] }, () =>
    fine(({ addon, assert }) => {
      const vm = addon.openSystem('/dev/kvm').createVm(0n);
      const memfd = vm.createGuestMemfd(0x10000n, 1n);
      const mapping = addon.mapFile(memfd, 0n, 0x10000n, true, true);
      assert.equal(mapping.stable, false);
      assert.throws(() => mapping.buffer(0n, 1), { code: 'ERR_KVM_STATE' });
      assert.throws(() => mapping.read(0n, new Uint8Array(1)), { code: 'EFAULT' });
      assert.throws(() => mapping.write(0n, new Uint8Array(1)), { code: 'EFAULT' });
      assert.throws(() => mapping.madvise(0n, 4096n, 23), { syscall: 'madvise' });
    }, {}),
  );

  kvmTest('ends before the mapping does', { needs: ['mapped-guest-memfd'] }, () =>
    fine(({ addon, assert }) => {
      const vm = addon.openSystem('/dev/kvm').createVm(0n);
      const memfd = vm.createGuestMemfd(0x4000n, 3n);
      const mapping = addon.mapFile(memfd, 0n, 0x8000n, true, true);
      assert.equal(mapping.stable, false);
      mapping.write(0n, new Uint8Array(0x4000));
      assert.throws(() => mapping.read(0x4000n, new Uint8Array(1)), { code: 'EFAULT' });
      const whole = addon.mapFile(memfd, 0n, 0x4000n, true, true);
      assert.equal(whole.stable, true);
      const view = new Uint8Array(whole.buffer(0n, 0x4000));
      memfd.fallocate(3, 0n, 0x4000n);
      vm.close();
      memfd.close();
      view.fill(5);
      assert.equal(view[0x3fff], 5);
    }, {}),
  );
});

describe('poison', () => {
  it('is not spread by the addon: it passes no advice that does', () =>
    fine(({ addon, assert }) => {
      const mapping = addon.mapAnonymous(8192n, { shared: false, hugetlb: 0, noreserve: false });
      // MADV_HWPOISON, MADV_SOFT_OFFLINE
      for (const advice of [100, 101]) assert.throws(() => mapping.madvise(0n, 4096n, advice), TypeError);
      new Uint8Array(mapping.buffer(0n, 8192)).fill(1);
    }, {}));

  const offline = '/sys/devices/system/memory/hard_offline_page';
  const poisonable = canWrite(offline);
  const title = `gives an error${poisonable ? '' : ` [needs ${offline}]`}`;
  it.skipIf(!poisonable)(title, () =>
    fine(
      async ({ addon, assert, input, load }) => {
        const { openSync: open, readSync, writeFileSync: put } = await load('node:fs');
        // Touching an ArrayBuffer over poison ends any process; memory that has none is read with an error.
        const memfd = addon.createMemfd('poison', 0, true);
        memfd.ftruncate(4096n);
        const mapping = addon.mapFile(memfd, 0n, 4096n, true, true);
        mapping.write(0n, new Uint8Array(4096));
        const page = await load('node:fs').then(({ readFileSync: get }) => {
          const start = get('/proc/self/maps', 'utf8')
            .split('\n')
            .find((line: string) => line.includes('poison'));
          return BigInt(`0x${start.split('-')[0]}`) / 4096n;
        });
        const entry = Buffer.alloc(8);
        readSync(open('/proc/self/pagemap', 'r'), entry, 0, 8, page * 8n);
        const frame = entry.readBigUInt64LE() & ((1n << 55n) - 1n);
        process.on('SIGBUS', () => {});
        put(input.offline, `0x${(frame * 4096n).toString(16)}`);
        assert.throws(() => mapping.read(0n, new Uint8Array(1)), { syscall: 'process_vm_readv' });
      },
      { offline },
    ),
  );
});

function canWrite(path: string): boolean {
  try {
    closeSync(openSync(path, 'r+'));
    return true;
  } catch {
    return false;
  }
}
