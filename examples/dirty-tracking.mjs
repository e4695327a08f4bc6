// Which pages a guest wrote to, round by round, drawn as one character each: from the log of a slot, from the log with
// manual protection (where reading takes nothing back), and from the ring of a vCPU.
// Exit code 0; what this KVM lacks is said and left out.
import { DirtyRing, HostMapping, Kvm } from 'node-kvm';

const SLOT = 1;
const BASE = 0x10000;
const PAGES = 64;
const LOG_DIRTY_PAGES = 1; // KVM_MEM_LOG_DIRTY_PAGES
const RING_BYTES = 4096;
// prettier-ignore
const code = [
  0x8e, 0xd8, //                   next: mov ds, ax
  0xc6, 0x06, 0x00, 0x00, 0x01, //       mov byte [0], 1
  0x01, 0xd8, //                         add ax, bx: so many pages on
  0x3d, 0x00, 0x50, //                   cmp ax, 0x5000: the end of the slot
  0x72, 0xf2, //                         jb next
  0xf4, //                               hlt
];
const kvm = Kvm.open();

function makeGuest(prepare) {
  const vm = kvm.createVm();
  prepare?.(vm);
  const low = HostMapping.anonymous(BASE);
  low.write(0x1000, Uint8Array.from(code));
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: BASE, mapping: low });
  const size = PAGES * 4096;
  const mapping = HostMapping.anonymous(size);
  vm.setUserMemoryRegion({ slot: SLOT, gpa: BigInt(BASE), size, mapping, flags: LOG_DIRTY_PAGES });
  const vcpu = vm.createVcpu(0);
  const sregs = vcpu.getSregs();
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
  const touchEvery = (pages) => {
    vcpu.updateRegs({ rip: 0x1000n, rflags: 2n, rax: BigInt(BASE >> 4), rbx: BigInt(pages * 256) });
    const { reason } = vcpu.runSync();
    if (reason !== 'hlt') throw new Error(`unexpected exit: ${reason}`);
  };
  return { vm, vcpu, touchEvery };
}

const all = Array.from({ length: PAGES }, (_, page) => page);
const pagesOf = (bitmap) => all.filter((page) => (bitmap[page >> 3] >> (page & 7)) & 1);

function draw(what, pages) {
  const dirty = new Set(pages);
  const row = all.map((page) => (dirty.has(page) ? '#' : '.')).join('');
  console.log(`  ${what.padEnd(20)} ${row} ${dirty.size}`);
}

console.log('the log: reading it protects its pages again');
{
  const { vm, touchEvery } = makeGuest();
  for (const every of [2, 3, 16]) {
    touchEvery(every);
    draw(`every ${every} pages`, pagesOf(vm.getDirtyLog(SLOT)));
  }
  draw('nothing since', pagesOf(vm.getDirtyLog(SLOT)));
  vm.close();
}

if (kvm.checkExtension('KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2') === 0) {
  console.log('no manual protection here (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)');
} else {
  console.log('manual protection: only what is cleared is protected again');
  const { vm, touchEvery } = makeGuest((made) => made.enableManualDirtyLogProtect());
  touchEvery(4);
  const bitmap = vm.getDirtyLog(SLOT);
  draw('every 4 pages', pagesOf(bitmap));
  bitmap.fill(0, PAGES / 16);
  vm.clearDirtyLog({ slot: SLOT, firstPage: 0n, numPages: PAGES, bitmap });
  draw('first half cleared', pagesOf(vm.getDirtyLog(SLOT)));
  touchEvery(8);
  draw('and every 8 pages', pagesOf(vm.getDirtyLog(SLOT)));
  vm.close();
}

if (kvm.checkExtension('KVM_CAP_DIRTY_LOG_RING') === 0) {
  console.log('no dirty ring here (KVM_CAP_DIRTY_LOG_RING)');
} else {
  console.log('the ring: the pages themselves, in the order they were written to');
  const { vm, vcpu, touchEvery } = makeGuest((made) => made.enableDirtyLogRing(RING_BYTES));
  const ring = new DirtyRing(vcpu, RING_BYTES);
  for (const every of [5, 21]) {
    touchEvery(every);
    const pages = ring
      .harvest()
      .filter(({ slot }) => slot === SLOT)
      .map(({ page }) => Number(page));
    vm.resetDirtyRings();
    draw(`every ${every} pages`, pages);
  }
  vm.close();
}
kvm.close();
