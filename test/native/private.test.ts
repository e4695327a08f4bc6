// guest_memfd, attributes and pre-fault: where the kernel makes software-protected VMs.
import { afterEach, describe, expect, test } from 'vitest';
import { native } from '../../lib/native.ts';
import type { NativeVcpu } from '../../lib/native.ts';
import { completions, hasKvm, KVM_GET_REGS, realMode, setRip, SPIN } from './guest.ts';

const KVM_CHECK_EXTENSION = 0xae03;
const KVM_CAP_VM_TYPES = 235;
const KVM_CAP_GUEST_MEMFD_FLAGS = 244;
const PRIVATE = 8n;
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const SIZE = 0x10000n;

function capability(cap: number): number {
  if (!hasKvm) return 0;
  const system = native().openSystem('/dev/kvm');
  const value = system.ioctl(KVM_CHECK_EXTENSION, cap);
  system.close();
  return value;
}

function makeGuest(type: bigint, flags: bigint) {
  const system = native().openSystem('/dev/kvm');
  const vm = system.createVm(type);
  const memory = native().mapAnonymous(SIZE, { shared: false, hugetlb: 0, noreserve: false });
  const gmem = vm.createGuestMemfd(SIZE, flags);
  const vcpu = vm.createVcpu(0);
  realMode(vcpu);
  const handles = [vcpu, gmem, vm, memory, system];
  return { system, vm, memory, gmem, vcpu, close: () => handles.forEach((handle) => handle.close()) };
}

function al(vcpu: NativeVcpu): number {
  const regs = new Uint8Array(144);
  vcpu.ioctl(KVM_GET_REGS, regs);
  return regs[0]!;
}

describe.skipIf((capability(KVM_CAP_VM_TYPES) & 2) === 0)(
  'private memory (needs VM type KVM_X86_SW_PROTECTED_VM)',
  () => {
    let close = (): void => {};
    afterEach(() => close());

    function protectedGuest() {
      const guest = makeGuest(1n, 0n);
      close = guest.close;
      guest.vm.setUserMemoryRegion(2, 0, 4, 0n, SIZE, guest.memory, 0n, guest.gmem, 0n);
      // 0x1000: mov al, [0x3000]; hlt    0x1004: mov byte [0x3000], 0x77; hlt
      guest.memory.write(0x1000n, new Uint8Array([0xa0, 0x00, 0x30, 0xf4, 0xc6, 0x06, 0x00, 0x30, 0x77, 0xf4]));
      guest.memory.write(0x3000n, new Uint8Array([0x55]));
      const runAt = (rip: bigint) => {
        setRip(guest.vcpu, rip);
        return guest.vcpu.runSync(-1);
      };
      return { ...guest, runAt };
    }

    test('what the guest writes in private, the host does not see', async () => {
      const { vm, vcpu, gmem, memory, runAt } = protectedGuest();
      expect([gmem.size, gmem.flags]).toEqual([SIZE, 0n]);
      runAt(0x1000n);
      expect(al(vcpu)).toBe(0x55);
      await vm.setMemoryAttributesAsync(0x3000n, 0x1000n, PRIVATE);
      runAt(0x1004n);
      runAt(0x1000n);
      expect(al(vcpu)).toBe(0x77);
      const seen = new Uint8Array(1);
      memory.read(0x3000n, seen);
      expect(seen[0]).toBe(0x55);
      await gmem.fallocateAsync(PUNCH_HOLE | KEEP_SIZE, 0x3000n, 0x1000n);
      runAt(0x1000n);
      expect(al(vcpu)).toBe(0);
    });

    test('a memory fault is told with its errno, and is not stale in the next result', () => {
      const { vm, vcpu, gmem, runAt } = protectedGuest();
      vm.setMemoryAttributes(0x3000n, 0x1000n, PRIVATE);
      gmem.close();
      expect(runAt(0x1000n)).toBe(39 | (14 << 16));
      const run = new DataView(vcpu.run);
      expect([32, 40, 48].map((at) => run.getBigUint64(at, true))).toEqual([8n, 0x3000n, 0x1000n]);
      vcpu.kick(true);
      expect(vcpu.runSync(-1)).toBe(-4);
    });

    test('pre-fault here and on the own thread', async () => {
      const { vcpu } = protectedGuest();
      const range = new Uint8Array(64);
      const view = new DataView(range.buffer);
      view.setBigUint64(8, SIZE, true);
      vcpu.preFault(range);
      expect([view.getBigUint64(0, true), view.getBigUint64(8, true)]).toEqual([SIZE, 0n]);
      view.setBigUint64(0, 0n, true);
      view.setBigUint64(8, SIZE, true);
      const next = completions(vcpu);
      let done = next();
      vcpu.startPreFault(range);
      expect(await done).toBe(0);
      expect([view.getBigUint64(0, true), view.getBigUint64(8, true)]).toEqual([SIZE, 0n]);
      view.setBigUint64(8, SIZE, true);
      done = next();
      vcpu.startPreFault(range);
      expect(await done).toBe(-2);
    });

    test('pre-fault is refused while the vCPU runs', async () => {
      const { vcpu, memory } = protectedGuest();
      const range = new Uint8Array(64);
      new DataView(range.buffer).setBigUint64(8, SIZE, true);
      memory.write(0x1000n, new Uint8Array(SPIN));
      setRip(vcpu, 0x1000n);
      const done = completions(vcpu)();
      vcpu.startRun();
      const running = expect.objectContaining({ code: 'ERR_KVM_RUNNING' });
      expect(() => vcpu.preFault(range)).toThrow(running);
      expect(() => vcpu.startPreFault(range)).toThrow(running);
      vcpu.kick(false);
      expect(await done).toBe(-4);
    });

    test('a slot without host memory does not give the guest the memory of this process', () => {
      const { vm, vcpu, memory, runAt } = protectedGuest();
      const second = vm.createGuestMemfd(SIZE, 0n);
      vm.setUserMemoryRegion(2, 1, 4, 0x100000n, SIZE, null, 0n, second, 0n);
      // mov ax, 0xffff; mov ds, ax; mov al, [0x10]; hlt
      memory.write(0x1000n, new Uint8Array([0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa0, 0x10, 0x00, 0xf4]));
      expect([-14, 39 | (14 << 16)]).toContain(runAt(0x1000n));
      vm.setUserMemoryRegion(2, 1, 0, 0n, 0n, null, 0n, null, 0n);
      second.close();
      expect(vcpu.running).toBe(false);
    });
  },
);

describe.skipIf(capability(KVM_CAP_GUEST_MEMFD_FLAGS) !== 3)(
  'mapped guest_memfd (needs KVM_CAP_GUEST_MEMFD_FLAGS)',
  () => {
    test('is stable with INIT_SHARED, inside its size', () => {
      const guest = makeGuest(0n, 3n);
      const mapping = native().mapFile(guest.gmem, 0n, SIZE, true, true);
      expect(mapping.stable).toBe(true);
      const view = new Uint8Array(mapping.buffer(0n, 0x1000));
      view[0] = 9;
      guest.vm.setUserMemoryRegion(2, 0, 4, 0n, SIZE, mapping, 0n, guest.gmem, 0n);
      const byte = new Uint8Array(1);
      mapping.read(0n, byte);
      expect(byte[0]).toBe(9);
      const beyond = native().mapFile(guest.gmem, 0n, SIZE * 2n, true, true);
      expect(beyond.stable).toBe(false);
      expect(() => beyond.read(SIZE, byte)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
      const unshared = guest.vm.createGuestMemfd(SIZE, 1n);
      const dark = native().mapFile(unshared, 0n, SIZE, true, true);
      expect(dark.stable).toBe(false);
      expect(() => dark.read(0n, byte)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
      for (const handle of [mapping, beyond, unshared, dark]) handle.close();
      guest.close();
    });
  },
);
