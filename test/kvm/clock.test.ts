/** The clock and the TSC of a VM, and what is set before its first vCPU. */
import { describe, expect } from 'vitest';
import { KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME } from '../../lib/abi/index.ts';
import type { Vm } from '../../lib/kvm/index.ts';
import { kvmTest, withKvm } from './support.ts';

const SECOND = 1_000_000_000n;
const CLOCK = { needs: ['KVM_CAP_ADJUST_CLOCK'] } as const;

function withVm(use: (vm: Vm) => void | Promise<void>): Promise<void> {
  return withKvm(async (kvm) => use(kvm.createVm()));
}

describe('the clock', () => {
  kvmTest('goes on', CLOCK, () =>
    withVm(async (vm) => {
      const first = vm.getClock();
      await new Promise((resolve) => setTimeout(resolve, 20));
      const passed = vm.getClock().clock - first.clock;
      expect(passed).toBeGreaterThanOrEqual(15_000_000n);
      expect(passed).toBeLessThan(60n * SECOND);
    }),
  );

  kvmTest('is set', CLOCK, () =>
    withVm((vm) => {
      vm.setClock({ clock: 1000n * SECOND });
      const { clock } = vm.getClock();
      expect(clock).toBeGreaterThanOrEqual(1000n * SECOND);
      expect(clock).toBeLessThan(1060n * SECOND);
    }),
  );

  kvmTest('says the wall clock where the kernel gives it, and takes it back', CLOCK, () =>
    withVm((vm) => {
      const now = vm.getClock();
      expect(now.realtime === undefined).toBe((now.flags & KVM_CLOCK_REALTIME) === 0);
      expect(now.hostTsc === undefined).toBe((now.flags & KVM_CLOCK_HOST_TSC) === 0);
      vm.setClock(now);
      expect(vm.getClock().clock).toBeGreaterThanOrEqual(now.clock);
      const knowsRealtime = (vm.checkExtension('KVM_CAP_ADJUST_CLOCK') & KVM_CLOCK_REALTIME) !== 0;
      if (!knowsRealtime) return;
      // An hour ago by the wall clock: that hour is added.
      vm.setClock({ clock: 5n * SECOND, realtime: BigInt(Date.now()) * 1_000_000n - 3600n * SECOND });
      const { clock } = vm.getClock();
      expect(clock).toBeGreaterThan(3590n * SECOND);
      expect(clock).toBeLessThan(3700n * SECOND);
    }),
  );

  kvmTest('is checked', CLOCK, () =>
    withVm((vm) => {
      expect(() => vm.setClock({ clock: 1 } as never)).toThrow(/a bigint for clock.*write 1n/);
      expect(() => vm.setClock({ clock: 1n, flags: KVM_CLOCK_REALTIME })).toThrow(/realtime is missing/);
      expect(() => vm.setClock({ clock: 1n, flags: KVM_CLOCK_HOST_TSC })).toThrow(/hostTsc is missing/);
      expect(() => vm.setClock({ clock: 1n, tsc: 1n } as never)).toThrow(/Expected no key tsc/);
      expect(() => vm.setClock({ clock: 1n, flags: 0x100 })).toThrow(
        expect.objectContaining({
          code: 'EINVAL',
          syscall: 'KVM_SET_CLOCK',
          hint: expect.stringMatching(/KVM_CAP_ADJUST_CLOCK/),
        }),
      );
    }),
  );
});

kvmTest('the TSC frequency is that of later vCPUs', () =>
  withVm((vm) => {
    const host = vm.getTscKhz();
    expect(host).toBeGreaterThan(1000);
    if (vm.checkExtension('KVM_CAP_VM_TSC_CONTROL') !== 0) {
      vm.setTscKhz(host - 1000);
      expect(vm.getTscKhz()).toBe(host - 1000);
      expect(vm.createVcpu(0).getTscKhz()).toBe(host - 1000);
    } else {
      // The host's own needs no scaling.
      vm.setTscKhz(0);
      // KVM has it from before the host's own calibration was finished, or from after.
      expect(Math.abs(vm.getTscKhz() / host - 1)).toBeLessThan(0.01);
      vm.createVcpu(0);
    }
    expect(() => vm.setTscKhz(host)).toThrow(expect.objectContaining({ code: 'ERR_KVM_STATE' }));
  }),
);

describe('before the first vCPU', () => {
  kvmTest('the pages of real mode find their place', () =>
    withVm((vm) => {
      vm.setTssAddr(0xfffb_d000n);
      vm.setIdentityMapAddr(0xfffb_c000n);
      expect(() => vm.setTssAddr(0xffff_e000n)).toThrow(/three pages end at or below 4 GiB/);
      expect(() => vm.setTssAddr(0x1001n)).toThrow(/a multiple of 4096/);
      expect(() => vm.setIdentityMapAddr(1n << 32n)).toThrow(/below 4 GiB/);
      vm.createVcpu(0);
      expect(() => vm.setIdentityMapAddr(0n)).toThrow(/must come before the first vCPU/);
    }),
  );

  kvmTest('the boot vCPU is chosen', { needs: ['KVM_CAP_SET_BOOT_CPU_ID'] }, () =>
    withVm((vm) => {
      vm.createIrqchip();
      vm.setBootCpuId(1);
      const [zero, one] = [vm.createVcpu(0), vm.createVcpu(1)];
      // Bit 8 of IA32_APIC_BASE: this is the boot processor.
      expect(zero.getSregs().apicBase & 0x100n).toBe(0n);
      expect(one.getSregs().apicBase & 0x100n).toBe(0x100n);
      expect(() => vm.setBootCpuId(0)).toThrow(expect.objectContaining({ code: 'ERR_KVM_STATE' }));
      expect(() => vm.setBootCpuId(-1)).toThrow(RangeError);
    }),
  );
});
