/** Which pages the guest wrote to: the log of a slot, and the rings of the vCPUs. */
import { describe, expect, onTestFinished } from 'vitest';
import { KVM_MEM_LOG_DIRTY_PAGES } from '../../lib/abi/index.ts';
import { DirtyRing } from '../../lib/kvm/dirty-ring.ts';
import { HostMapping, Kvm } from '../../lib/kvm/index.ts';
import type { Vcpu, Vm } from '../../lib/kvm/index.ts';
import { expectExit, HLT, startAt } from './vcpu-guest.ts';
import { kvmTest, withKvm } from './support.ts';

const SLOT = 1;
const BASE = 0x10_0000n;
/** Not a multiple of 64. */
const PAGES = 100;
const PAGE = 4096;
const LOG = { needs: ['KVM_CAP_USER_MEMORY'] } as const;
const MANUAL = { needs: ['KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2'] } as const;
const RING = { needs: ['KVM_CAP_DIRTY_LOG_RING'] } as const;
const RING_BYTES = 4096;

interface Watched {
  readonly vm: Vm;
  readonly vcpu: Vcpu;
  /** Has the guest write one byte to each of these pages of the watched slot, in this order. */
  touch(...pages: number[]): Promise<void>;
}

/** A guest with code in slot 0 and a watched slot at {@link BASE}. */
function watched(prepare?: (vm: Vm) => void): Watched {
  const kvm = Kvm.open();
  onTestFinished(() => kvm.close());
  const vm = kvm.createVm();
  prepare?.(vm);
  const [code, data] = [HostMapping.anonymous(0x4000), HostMapping.anonymous(PAGES * PAGE)];
  onTestFinished(() => (code.close(), data.close()));
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 0x4000, mapping: code });
  vm.setUserMemoryRegion({ slot: SLOT, gpa: BASE, size: PAGES * PAGE, mapping: data, flags: KVM_MEM_LOG_DIRTY_PAGES });
  const vcpu = vm.createVcpu(0);
  // mov [bx], al; hlt, with the page as the base of DS.
  code.view(0, 0x4000).set([0x88, 0x07, HLT], 0x1000);
  return {
    vm,
    vcpu,
    async touch(...pages) {
      for (const page of pages) {
        startAt(vcpu);
        const sregs = vcpu.getSregs();
        vcpu.setSregs({ ...sregs, ds: { ...sregs.ds, base: BASE + BigInt(page * PAGE) } });
        expectExit(await vcpu.run(), 'hlt');
      }
    },
  };
}

/** The pages whose bit is 1. */
function pagesOf(bitmap: Uint8Array): number[] {
  const all = Array.from({ length: bitmap.byteLength * 8 }, (_, page) => page);
  return all.filter((page) => ((bitmap[page >> 3]! >> (page & 7)) & 1) !== 0);
}

describe('the log', () => {
  kvmTest('has the pages that were written to, once', LOG, async () => {
    const { vm, touch } = watched();
    await touch(3, 64, 99, 3);
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual([3, 64, 99]);
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual([]);
    await touch(3);
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual([3]);
  });

  kvmTest('fills what it is given', LOG, async () => {
    const { vm, touch } = watched();
    await touch(1);
    const into = new Uint8Array(24).fill(0xff);
    const bitmap = vm.getDirtyLog(SLOT, into);
    expect(bitmap.byteLength).toBe(16);
    expect(pagesOf(bitmap)).toEqual([1]);
    expect(bitmap.buffer).toBe(into.buffer);
    expect([...into.subarray(16)]).toEqual(Array(8).fill(0xff));
    expect(() => vm.getDirtyLog(SLOT, new Uint8Array(15))).toThrow(/at least 16 bytes for into/);
  });

  kvmTest('is refused with the reason', LOG, () => {
    const { vm } = watched();
    expect(() => vm.getDirtyLog(7)).toThrow(/Slot 7 was not set by this handle/);
    expect(() => vm.getDirtyLog(0)).toThrow(
      expect.objectContaining({
        code: 'ENOENT',
        syscall: 'KVM_GET_DIRTY_LOG',
        hint: expect.stringMatching(/KVM_MEM_LOG_DIRTY_PAGES/),
      }),
    );
    expect(() => vm.resetDirtyRings()).toThrow(
      expect.objectContaining({
        code: 'EINVAL',
        hint: expect.stringMatching(/enableDirtyLogRing/),
      }),
    );
  });
});

describe('the log with manual protection', () => {
  kvmTest('is cleared for the pages that are named', MANUAL, async () => {
    const { vm, touch } = watched((made) => made.enableManualDirtyLogProtect());
    await touch(2, 5, 70);
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual([2, 5, 70]);
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual([2, 5, 70]);
    vm.clearDirtyLog({ slot: SLOT, firstPage: 0n, numPages: 64, bitmap: Uint8Array.of(1 << 2, 0, 0, 0, 0, 0, 0, 0) });
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual([5, 70]);
    vm.clearDirtyLog({ slot: SLOT, firstPage: 64n, numPages: 36, bitmap: new Uint8Array(8).fill(0xff) });
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual([5]);
    await touch(2, 70);
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual([2, 5, 70]);
  });

  kvmTest('begins with all pages where that is asked for', MANUAL, () => {
    const { vm } = watched((made) => made.enableManualDirtyLogProtect(true));
    expect(pagesOf(vm.getDirtyLog(SLOT))).toEqual(Array.from({ length: PAGES }, (_, page) => page));
  });

  kvmTest('is cleared in whole words inside the slot', MANUAL, () => {
    const { vm } = watched((made) => made.enableManualDirtyLogProtect());
    const range = { slot: SLOT, firstPage: 0n, numPages: 64, bitmap: new Uint8Array(16) };
    expect(() => vm.clearDirtyLog({ ...range, firstPage: 1n })).toThrow(/a multiple of 64 for firstPage/);
    expect(() => vm.clearDirtyLog({ ...range, numPages: 63 })).toThrow(/a multiple of 64, or a range to the end/);
    expect(() => vm.clearDirtyLog({ ...range, numPages: 128 })).toThrow(/at most the 100 pages of slot 1/);
    expect(() => vm.clearDirtyLog({ ...range, numPages: 0 })).toThrow(RangeError);
    expect(() => vm.clearDirtyLog({ ...range, numPages: 100, bitmap: new Uint8Array(8) })).toThrow(/at least 16 bytes/);
    expect(() => vm.clearDirtyLog({ ...range, slot: 0, numPages: 4 })).toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
    expect(() => vm.clearDirtyLog({ ...range, pages: 1 } as never)).toThrow(/Expected no key pages/);
  });
});

describe('the ring', () => {
  const enable = (vm: Vm): void => vm.enableDirtyLogRing(RING_BYTES);

  kvmTest('has the pages in the order they were written to', RING, async () => {
    const { vm, vcpu, touch } = watched(enable);
    const ring = new DirtyRing(vcpu, RING_BYTES);
    expect(ring.length).toBe(256);
    expect(ring.harvest()).toEqual([]);
    await touch(9, 4, 99);
    expect(ring.harvest(1)).toEqual([{ slot: SLOT, addressSpace: 0, page: 9n }]);
    expect(ring.harvest().map(({ page }) => page)).toEqual([4n, 99n]);
    expect(ring.harvest()).toEqual([]);
    // Before the reset a page is noted again only where KVM emulates the write.
    await touch(4);
    const again = ring.harvest();
    expect(again.length).toBeLessThanOrEqual(1);
    expect(vm.resetDirtyRings()).toBe(3 + again.length);
    expect(vm.resetDirtyRings()).toBe(0);
    await touch(4);
    expect(ring.harvest().map(({ page }) => page)).toEqual([4n]);
  });

  kvmTest('goes round', RING, async () => {
    const { vm, vcpu, touch } = watched(enable);
    const ring = new DirtyRing(vcpu, RING_BYTES);
    const pages = Array.from({ length: 60 }, (_, page) => page);
    for (let round = 0; round < 6; round++) {
      await touch(...pages);
      expect(ring.harvest().map(({ page }) => Number(page))).toEqual(pages);
      expect(vm.resetDirtyRings()).toBe(pages.length);
    }
  });

  kvmTest('takes the place of the log', RING, () => {
    const { vm } = watched(enable);
    expect(() => vm.getDirtyLog(SLOT)).toThrow(
      expect.objectContaining({ code: 'ENXIO', hint: expect.stringMatching(/dirty rings/) }),
    );
  });

  kvmTest('is there for VMs that asked for it, in its size', RING, () =>
    withKvm((kvm) => {
      const plain = kvm.createVm().createVcpu(0);
      expect(() => new DirtyRing(plain, RING_BYTES)).toThrow();
      expect(() => new DirtyRing(plain, 5000)).toThrow(/a power of two for bytes/);
      plain.close();
      expect(() => new DirtyRing(plain, RING_BYTES)).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
      const vm = kvm.createVm();
      vm.enableDirtyLogRing(RING_BYTES);
      const vcpu = vm.createVcpu(0);
      const ring = new DirtyRing(vcpu, RING_BYTES);
      vm.close();
      expect(() => ring.harvest()).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
    }),
  );
});
