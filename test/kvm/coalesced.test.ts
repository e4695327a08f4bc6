/** Zones whose writes are gathered in a ring. */
import { describe, expect } from 'vitest';
import { expectExit, HLT, MMIO, OUT, realMode } from './vcpu-guest.ts';
import { kvmTest, withKvm } from './support.ts';

/** mov [0x40], al; mov [0x42], ax, with DS at MMIO */
const STORES = [0xa2, 0x40, 0x00, 0xa3, 0x42, 0x00];
const NEEDS = { needs: ['KVM_CAP_COALESCED_MMIO'] } as const;

describe('the ring', () => {
  kvmTest('holds the writes to a zone in their order', NEEDS, async () => {
    const { vm, vcpu } = realMode([...STORES, HLT], { mmio: true, regs: { rax: 0xbeefn } });
    const ring = vm.coalescedRing(vcpu);
    expect(ring.drain()).toEqual([]);
    vm.registerCoalescedMmio({ address: MMIO, size: 0x1000 });
    expectExit(await vcpu.run(), 'hlt');
    expect(ring.drain()).toEqual([
      { address: MMIO + 0x40n, pio: false, data: Uint8Array.of(0xef) },
      { address: MMIO + 0x42n, pio: false, data: Uint8Array.of(0xef, 0xbe) },
    ]);
    expect(ring.drain()).toEqual([]);
  });

  kvmTest('holds writes to ports', { needs: ['KVM_CAP_COALESCED_PIO'] }, async () => {
    const { vm, vcpu } = realMode([0xb0, 0x41, ...OUT, HLT]);
    vm.registerCoalescedMmio({ address: 0x10n, size: 1, pio: true });
    expectExit(await vcpu.run(), 'hlt');
    expect(vm.coalescedRing(vcpu).drain()).toEqual([{ address: 0x10n, pio: true, data: Uint8Array.of(0x41) }]);
  });

  kvmTest('lets writes exit when it is full, and goes round', NEEDS, async () => {
    // mov cx, 400; again: mov [0x40], cx; loop again; hlt
    const { vm, vcpu } = realMode([0xb9, 0x90, 0x01, 0x89, 0x0e, 0x40, 0x00, 0xe2, 0xfa, HLT], { mmio: true });
    vm.registerCoalescedMmio({ address: MMIO + 0x40n, size: 2 });
    const ring = vm.coalescedRing(vcpu);
    const seen: number[] = [];
    let exits = 0;
    for (;;) {
      const exit = await vcpu.run();
      for (const { data } of ring.drain()) seen.push(data[0]! | (data[1]! << 8));
      if (exit.reason === 'hlt') break;
      // The write that found no place came after all that are in the ring.
      const { data } = expectExit(exit, 'mmio');
      seen.push(data[0]! | (data[1]! << 8));
      exits++;
    }
    expect(ring.capacity).toBe(169);
    expect(exits).toBe(2);
    expect(seen).toEqual(Array.from({ length: 400 }, (_, index) => 400 - index));
  });
});

kvmTest('a zone that is unregistered exits again', NEEDS, async () => {
  const { vm, vcpu } = realMode([...STORES, HLT], { mmio: true });
  vm.registerCoalescedMmio({ address: MMIO, size: 0x1000 });
  vm.unregisterCoalescedMmio({ address: MMIO, size: 0x1000 });
  expect(expectExit(await vcpu.run(), 'mmio').gpa).toBe(MMIO + 0x40n);
  expect(vm.coalescedRing(vcpu).drain()).toEqual([]);
});

kvmTest('the ring ends with its vCPU, and is of one VM', NEEDS, () =>
  withKvm((kvm) => {
    const vm = kvm.createVm();
    const vcpu = vm.createVcpu(0);
    const ring = vm.coalescedRing(vcpu);
    const other = kvm.createVm();
    expect(() => other.coalescedRing(vcpu)).toThrow(/The vCPU 0 is not one of this VM/);
    expect(() => vm.coalescedRing({} as never)).toThrow(/a vCPU for vcpu/);
    vcpu.close();
    expect(() => ring.drain()).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
    expect(() => vm.coalescedRing(vcpu)).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  }),
);

kvmTest('a zone is checked', NEEDS, () =>
  withKvm((kvm) => {
    const vm = kvm.createVm();
    expect(() => vm.registerCoalescedMmio({ address: MMIO, size: 0 })).toThrow(RangeError);
    expect(() => vm.registerCoalescedMmio({ address: 0xffffn, size: 2, pio: true })).toThrow(
      /at most 1 bytes from port/,
    );
    expect(() => vm.registerCoalescedMmio({ address: 1, size: 2 } as never)).toThrow(/write 1n/);
    expect(() => vm.registerCoalescedMmio({ address: 1n, size: 2, port: true } as never)).toThrow(
      /Expected no key port/,
    );
  }),
);
