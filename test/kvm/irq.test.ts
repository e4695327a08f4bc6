/** Interrupt controllers, lines, messages, routes, and irqfds. */
import { describe, expect, onTestFinished } from 'vitest';
import { Eventfd } from '../../lib/kvm/eventfd.ts';
import type { Vcpu, Vm } from '../../lib/kvm/index.ts';
import { expectExit, realMode, OUT } from './vcpu-guest.ts';
import { kvmTest, withKvm } from './support.ts';

const ROUTED_IRQFD = { needs: ['KVM_CAP_IRQFD', 'KVM_CAP_IRQ_ROUTING'] } as const;
const SPLIT_RESAMPLE = { needs: ['KVM_CAP_SPLIT_IRQCHIP', 'KVM_CAP_IRQFD_RESAMPLE'] } as const;
const MSI = 0xfee0_0000n;
/** Delivery mode NMI, which a local APIC takes in every state. */
const NMI_DATA = 0x400;
const NO_IRQCHIP = expect.stringMatching(/createIrqchip/);

function eventfd(initial = 0): Eventfd {
  const made = Eventfd.create({ initial });
  onTestFinished(() => made.close());
  return made;
}

function withVm(use: (vm: Vm) => void | Promise<void>): Promise<void> {
  return withKvm(async (kvm) => use(kvm.createVm()));
}

/** A vCPU that takes messages: KVM finds a local APIC by its id once it was set or the guest has used it. */
function vcpuWithApic(vm: Vm): Vcpu {
  const vcpu = vm.createVcpu(0);
  vcpu.setLapic(vcpu.getLapic());
  return vcpu;
}

/** An irqfd may be served by a thread of the kernel, a moment later. */
async function nmiArrives(vcpu: Vcpu, withinMs: number): Promise<boolean> {
  const end = performance.now() + withinMs;
  do {
    const { nmi } = vcpu.getVcpuEvents();
    if (nmi.pending > 0 || nmi.injected) return true;
    await new Promise((resolve) => setTimeout(resolve, 2));
  } while (performance.now() < end);
  return false;
}

describe('the interrupt controllers', () => {
  kvmTest('come once, before the vCPUs', () =>
    withVm((vm) => {
      vm.createIrqchip();
      expect(() => vm.createIrqchip()).toThrow(
        expect.objectContaining({ code: 'EEXIST', syscall: 'KVM_CREATE_IRQCHIP' }),
      );
      vm.createVcpu(0);
      expect(() => vm.createIrqchip()).toThrow(expect.objectContaining({ code: 'ERR_KVM_STATE' }));
    }),
  );

  kvmTest('are read and set', () =>
    withVm((vm) => {
      vm.createIrqchip();
      const ioapic = vm.getIrqchip('ioapic');
      expect(ioapic).toMatchObject({ baseAddress: 0xfec0_0000n });
      expect(ioapic.redirtbl).toHaveLength(24);
      ioapic.redirtbl[5] = 0x1_0035n;
      vm.setIrqchip('ioapic', ioapic);
      expect(vm.getIrqchip('ioapic').redirtbl[5]! & 0x1_00ffn).toBe(0x1_0035n);

      const master = vm.getIrqchip('pic-master');
      vm.setIrqchip('pic-master', { ...master, imr: 0xa5, irqBase: 0x20 });
      expect(vm.getIrqchip('pic-master')).toMatchObject({ imr: 0xa5, irqBase: 0x20 });
      expect(vm.getIrqchip('pic-slave').imr).not.toBe(0xa5);
      expect(() => vm.getIrqchip('pic' as never)).toThrow(/one of 'pic-master', 'pic-slave', 'ioapic'/);
    }),
  );

  kvmTest('say what is missing without one', () =>
    withVm((vm) => {
      expect(() => vm.getIrqchip('ioapic')).toThrow(expect.objectContaining({ code: 'ENXIO', hint: NO_IRQCHIP }));
      expect(() => vm.irqLine(1, 1)).toThrow(expect.objectContaining({ code: 'ENXIO', hint: NO_IRQCHIP }));
      expect(() => vm.signalMsi({ address: MSI, data: NMI_DATA })).toThrow(
        expect.objectContaining({ code: 'EINVAL', hint: NO_IRQCHIP }),
      );
      expect(() => vm.setGsiRouting([])).toThrow(expect.objectContaining({ code: 'EINVAL', hint: NO_IRQCHIP }));
      expect(() => vm.irqfd({ eventfd: eventfd(), gsi: 1 })).toThrow(expect.objectContaining({ code: 'EINVAL' }));
      expect(() => vm.createPit2()).toThrow(expect.objectContaining({ code: 'ENOENT', hint: NO_IRQCHIP }));
      expect(() => vm.getPit2()).toThrow(
        expect.objectContaining({ code: 'ENXIO', hint: expect.stringMatching(/createPit2/) }),
      );
    }),
  );
});

kvmTest('the PIT is made once, read and set', { needs: ['KVM_CAP_PIT2'] }, () =>
  withVm((vm) => {
    vm.createIrqchip();
    vm.createPit2({ speakerDummy: true });
    expect(() => vm.createPit2()).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    const state = vm.getPit2();
    expect(state.channels).toHaveLength(3);
    state.channels[2] = { ...state.channels[2]!, count: 0x1_0000, mode: 3 };
    vm.setPit2(state);
    expect(vm.getPit2().channels[2]).toMatchObject({ count: 0x1_0000, mode: 3 });
    vm.reinjectControl(false);
    vm.reinjectControl(true);
  }),
);

describe('a line', () => {
  kvmTest('wakes a guest that waits in HLT', { needs: ['KVM_CAP_IRQCHIP'] }, async () => {
    // sti; hlt; hlt, and a handler for vector 0x21 that writes to a port.
    const { vm, vcpu, memory } = realMode([0xfb, 0xf4, 0xf4], {
      prepare: (made) => made.createIrqchip(),
      regs: { rsp: 0x8000n },
    });
    memory.set(OUT, 0x3000);
    memory.set([0x00, 0x30, 0x00, 0x00], 0x21 * 4);
    const pic = vm.getIrqchip('pic-master');
    vm.setIrqchip('pic-master', { ...pic, imr: 0xfd, irqBase: 0x20, initState: 0, irr: 0, isr: 0, lastIrr: 0 });
    const running = vcpu.run({ timeoutMs: 20_000 });
    setTimeout(() => {
      vm.irqLine(1, true);
      vm.irqLine(1, false);
    }, 30);
    expect(expectExit(await running, 'io')).toMatchObject({ direction: 'out', port: 0x10 });
  });

  kvmTest('says what became of it', { needs: ['KVM_CAP_IRQ_INJECT_STATUS'] }, () =>
    withVm((vm) => {
      vm.createIrqchip();
      vm.createVcpu(0);
      expect(Number.isInteger(vm.irqLineStatus(5, 1))).toBe(true);
      vm.irqLineStatus(5, 0);
      expect(() => vm.irqLine(5, 2 as never)).toThrow(/^Expected a boolean, 0 or 1 for level/);
    }),
  );
});

kvmTest('a message reaches a vCPU, or says why not', { needs: ['KVM_CAP_SIGNAL_MSI'] }, () =>
  withVm(async (vm) => {
    vm.createIrqchip();
    expect(() => vm.signalMsi({ address: MSI, data: NMI_DATA })).toThrow(expect.objectContaining({ code: 'EPERM' }));
    const vcpu = vcpuWithApic(vm);
    expect(vm.signalMsi({ address: MSI, data: NMI_DATA })).toBe(true);
    expect(await nmiArrives(vcpu, 1000)).toBe(true);
    expect(() => vm.signalMsi({ address: MSI, data: NMI_DATA, target: 1 } as never)).toThrow(/Expected no key target/);
  }),
);

describe('routes', () => {
  kvmTest('replace the table, and are remembered', { needs: ['KVM_CAP_IRQ_ROUTING'] }, () =>
    withVm((vm) => {
      vm.createIrqchip();
      expect(vm.gsiRoutes).toBeUndefined();
      const routes = [
        { gsi: 0, type: 'irqchip', chip: 'ioapic', pin: 2 },
        { gsi: 1, type: 'irqchip', chip: 'ioapic', pin: 1 },
        { gsi: 1, type: 'irqchip', chip: 'pic-master', pin: 1 },
        { gsi: 4095, type: 'msi', address: MSI, data: 0x31 },
      ] as const;
      vm.setGsiRouting(routes);
      expect(vm.gsiRoutes).toEqual(routes);
      vm.setGsiRouting([]);
      expect(vm.gsiRoutes).toEqual([]);
    }),
  );

  kvmTest('are checked before the kernel sees them', { needs: ['KVM_CAP_IRQ_ROUTING'] }, () =>
    withVm((vm) => {
      vm.createIrqchip();
      const msi = { gsi: 3, type: 'msi', address: MSI, data: 1 } as const;
      expect(() => vm.setGsiRouting([msi, msi])).toThrow(/one route for GSI 3 .* routes\[1\] is a second one/);
      expect(() => vm.setGsiRouting([{ ...msi, gsi: 4096 }])).toThrow(/a GSI below 4096 for routes\[0\]\.gsi/);
      expect(() => vm.setGsiRouting([{ gsi: 1, type: 'irqchip', chip: 'pic-slave', pin: 8 }])).toThrow(/a pin below 8/);
      expect(() => vm.setGsiRouting([{ ...msi, type: 'lsi' } as never])).toThrow(TypeError);
      expect(() => vm.setGsiRouting([{ gsi: 1, type: 4, u: new Uint8Array(33) }])).toThrow(/at most 32 bytes/);
      // The kernel's own word on what is refused here.
      expect(() => vm.setGsiRouting([{ gsi: 1, type: 99, u: new Uint8Array(8) }])).toThrow(
        expect.objectContaining({ code: 'EINVAL' }),
      );
      expect(vm.gsiRoutes).toBeUndefined();
    }),
  );

  kvmTest('of a split irqchip lead to messages only', { needs: ['KVM_CAP_SPLIT_IRQCHIP'] }, () =>
    withVm((vm) => {
      vm.enableSplitIrqchip(24);
      vm.setGsiRouting([{ gsi: 5, type: 'msi', address: MSI, data: 0x31 }]);
      expect(() => vm.setGsiRouting([{ gsi: 5, type: 'irqchip', chip: 'ioapic', pin: 5 }])).toThrow(
        expect.objectContaining({ code: 'EINVAL', hint: expect.stringMatching(/split/) }),
      );
      expect(() => vm.getIrqchip('ioapic')).toThrow(expect.objectContaining({ code: 'ENXIO' }));
      expect(vm.gsiRoutes).toHaveLength(1);
    }),
  );
});

describe('an irqfd', () => {
  kvmTest('raises its interrupt until it is deassigned', ROUTED_IRQFD, () =>
    withVm(async (vm) => {
      vm.createIrqchip();
      const vcpu = vcpuWithApic(vm);
      vm.setGsiRouting([{ gsi: 30, type: 'msi', address: MSI, data: NMI_DATA }]);
      const fd = eventfd();
      vm.irqfd({ eventfd: fd, gsi: 30 });
      expect(await nmiArrives(vcpu, 20)).toBe(false);
      fd.write(1);
      expect(await nmiArrives(vcpu, 2000)).toBe(true);

      const events = vcpu.getVcpuEvents();
      vcpu.setVcpuEvents({ ...events, nmi: { ...events.nmi, pending: 0 } });
      vm.irqfdDeassign({ eventfd: fd, gsi: 30 });
      vm.irqfdDeassign({ eventfd: fd, gsi: 30 });
      fd.write(1);
      expect(await nmiArrives(vcpu, 30)).toBe(false);
      expect(fd.read()).toBe(1n);
    }),
  );

  kvmTest('that is signalled already fires when it is assigned', ROUTED_IRQFD, () =>
    withVm(async (vm) => {
      vm.createIrqchip();
      const vcpu = vcpuWithApic(vm);
      vm.setGsiRouting([{ gsi: 30, type: 'msi', address: MSI, data: NMI_DATA }]);
      vm.irqfd({ eventfd: eventfd(1), gsi: 30 });
      expect(await nmiArrives(vcpu, 2000)).toBe(true);
    }),
  );

  kvmTest('is refused with the reason', { needs: ['KVM_CAP_IRQFD'] }, () =>
    withVm((vm) => {
      vm.createIrqchip();
      const fd = eventfd();
      vm.irqfd({ eventfd: fd, gsi: 3 });
      expect(() => vm.irqfd({ eventfd: fd, gsi: 4 })).toThrow(expect.objectContaining({ code: 'EBUSY' }));
      const closed = eventfd();
      closed.close();
      expect(() => vm.irqfd({ eventfd: closed, gsi: 4 })).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
      expect(() => vm.irqfd({ eventfd: 3, gsi: 4 } as never)).toThrow(
        /^Expected an Eventfd for eventfd but received 3/,
      );
      expect(() => vm.irqfd({ eventfd: eventfd(), gsi: 4, resample: {} } as never)).toThrow(/an Eventfd for resample/);
      vm.irqfd({ eventfd: eventfd(), gsi: 9, resample: eventfd() });
    }),
  );

  kvmTest('of a split irqchip has no resampling', SPLIT_RESAMPLE, () =>
    withVm((vm) => {
      vm.enableSplitIrqchip(24);
      expect(() => vm.irqfd({ eventfd: eventfd(), gsi: 9, resample: eventfd() })).toThrow(
        expect.objectContaining({ code: 'EINVAL', hint: expect.stringMatching(/resample/) }),
      );
    }),
  );
});
