/** Devices in the kernel, filters of MSRs and performance events, and the raw calls of memory encryption. */
import { describe, expect, onTestFinished } from 'vitest';
import { KVM_DEV_TYPE_VFIO, KVM_MSR_EXIT_REASON_FILTER } from '../../lib/abi/index.ts';
import { HostMapping } from '../../lib/kvm/index.ts';
import type { Vm } from '../../lib/kvm/index.ts';
import { expectExit, HLT, realMode } from './vcpu-guest.ts';
import { kvmTest, withKvm } from './support.ts';

const DEVICES = { needs: ['KVM_CAP_DEVICE_CTRL'] } as const;
const FILTERED = { needs: ['KVM_CAP_X86_MSR_FILTER', 'KVM_CAP_X86_USER_SPACE_MSR'] } as const;
function withVm(use: (vm: Vm) => void): Promise<void> {
  return withKvm((kvm) => use(kvm.createVm()));
}

describe('a device', () => {
  kvmTest('is made once for each VM, where the kernel has it', DEVICES, () =>
    withVm((vm) => {
      if (!vm.hasDeviceType(KVM_DEV_TYPE_VFIO)) {
        expect(() => vm.createDevice(KVM_DEV_TYPE_VFIO)).toThrow(expect.objectContaining({ code: 'ENODEV' }));
        return;
      }
      const device = vm.createDevice(KVM_DEV_TYPE_VFIO);
      expect(device.type).toBe(KVM_DEV_TYPE_VFIO);
      expect(device.fd).toBeGreaterThan(2);
      expect(device.hasDeviceAttr(1, 1n)).toBe(true);
      expect(device.hasDeviceAttr(99, 1n)).toBe(false);
      expect(() => device.setDeviceAttr(99, 1n)).toThrow(expect.objectContaining({ code: 'ENXIO' }));
      expect(() => device.hasDeviceAttr(1, 1 as never)).toThrow(/a bigint for attr/);
      expect(() => vm.createDevice(KVM_DEV_TYPE_VFIO)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
      vm.close();
      expect(device.closed).toBe(true);
      expect(() => device.hasDeviceAttr(1, 1n)).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
    }),
  );

  kvmTest('of a type that does not exist is refused', DEVICES, () =>
    withVm((vm) => {
      expect(vm.hasDeviceType(9999)).toBe(false);
      expect(() => vm.createDevice(9999)).toThrow(
        expect.objectContaining({
          code: 'ENODEV',
          syscall: 'KVM_CREATE_DEVICE',
          hint: expect.stringMatching(/no such device/),
        }),
      );
      expect(() => vm.createDevice(-1)).toThrow(RangeError);
    }),
  );
});

describe('the MSR filter', () => {
  // mov ecx, 0xc0000081; rdmsr; hlt
  const READ_STAR = [0x66, 0xb9, 0x81, 0x00, 0x00, 0xc0, 0x0f, 0x32, HLT];
  const denied = { base: 0xc000_0081, count: 1, bitmap: new Uint8Array(8) };

  kvmTest('turns a denied read into an exit', FILTERED, async () => {
    const { vm, vcpu } = realMode(READ_STAR, {
      prepare(made) {
        made.enableUserSpaceMsr(BigInt(KVM_MSR_EXIT_REASON_FILTER));
        made.setMsrFilter({ ranges: [denied] });
      },
    });
    expect(expectExit(await vcpu.run(), 'rdmsr')).toMatchObject({ index: 0xc000_0081 });
    vm.setMsrFilter({});
    expectExit(await vcpu.run(), 'hlt');
  });

  kvmTest('allows what its bitmap allows', FILTERED, async () => {
    const { vcpu } = realMode(READ_STAR, {
      prepare(made) {
        made.enableUserSpaceMsr(BigInt(KVM_MSR_EXIT_REASON_FILTER));
        made.setMsrFilter({ default: 'deny', ranges: [{ ...denied, bitmap: Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0) }] });
      },
    });
    expectExit(await vcpu.run(), 'hlt');
  });

  kvmTest('is checked', { needs: ['KVM_CAP_X86_MSR_FILTER'] }, () =>
    withVm((vm) => {
      expect(() => vm.setMsrFilter({ default: 'deny' })).toThrow(/at least one range where default is 'deny'/);
      expect(() => vm.setMsrFilter({ default: 'refuse' } as never)).toThrow(/one of 'allow', 'deny'/);
      expect(() => vm.setMsrFilter({ ranges: [{ ...denied, count: 12289 }] })).toThrow(
        /from 1 to 12288 for ranges\[0\]\.count/,
      );
      expect(() => vm.setMsrFilter({ ranges: [{ ...denied, count: 65 }] })).toThrow(
        /at least 16 bytes for ranges\[0\]\.bitmap/,
      );
      expect(() => vm.setMsrFilter({ ranges: [{ ...denied, read: false, write: false }] })).toThrow(
        /at least one of read and write/,
      );
      expect(() => vm.setMsrFilter({ ranges: Array(17).fill(denied) })).toThrow(/at most 16 ranges/);
      vm.setMsrFilter({ ranges: Array(16).fill({ ...denied, count: 12288, bitmap: new Uint8Array(1536) }) });
    }),
  );
});

kvmTest('the PMU event filter is set and checked', { needs: ['KVM_CAP_PMU_EVENT_FILTER'] }, () =>
  withVm((vm) => {
    vm.setPmuEventFilter({ action: 'allow', events: [0xc0n, 0x3cn], fixedCounterBitmap: 1 });
    vm.setPmuEventFilter({ action: 'deny' });
    expect(() => vm.setPmuEventFilter({ action: 'allow', events: Array(301).fill(1n) })).toThrow(
      expect.objectContaining({ code: 'E2BIG', syscall: 'KVM_SET_PMU_EVENT_FILTER' }),
    );
    expect(() => vm.setPmuEventFilter({ action: 'allow', events: [1] } as never)).toThrow(/a bigint for events\[0\]/);
    expect(() => vm.setPmuEventFilter({ action: 'drop' } as never)).toThrow(/one of 'allow', 'deny'/);
  }),
);

describe('memory encryption', () => {
  kvmTest('is refused with the reason by a VM that has none', () =>
    withVm((vm) => {
      const mapping = HostMapping.anonymous(0x2000);
      onTestFinished(() => mapping.close());
      const code = expect.stringMatching(/^(ENOTTY|EINVAL)$/);
      const refused = expect.objectContaining({ code, hint: expect.any(String) });
      expect(() => vm.memoryEncryptOp({ command: new Uint8Array(24) })).toThrow(refused);
      expect(() => vm.memoryEncryptRegRegion({ mapping })).toThrow(refused);
      expect(() => vm.memoryEncryptUnregRegion({ mapping, offset: 0x1000 })).toThrow(refused);
    }),
  );

  kvmTest('checks the region', () =>
    withVm((vm) => {
      const mapping = HostMapping.anonymous(0x2000);
      onTestFinished(() => mapping.close());
      expect(() => vm.memoryEncryptRegRegion({ mapping, offset: 0x2000 })).toThrow(/an offset inside the mapping/);
      expect(() => vm.memoryEncryptRegRegion({ mapping, offset: 0x1000, size: 0x2000 })).toThrow(
        /at most the 4096 bytes/,
      );
      expect(() => vm.memoryEncryptRegRegion({ mapping, size: 1 })).toThrow(/a multiple of 4096/);
      expect(() => vm.memoryEncryptRegRegion({ mapping: {} } as never)).toThrow(/a HostMapping for mapping/);
      expect(() => vm.memoryEncryptOp({ command: [] } as never)).toThrow(/a Uint8Array for command/);
    }),
  );
});
