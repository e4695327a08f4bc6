/** The VM: capabilities, order of things, tokens. */
import { describe, expect } from 'vitest';
import { Vm } from '../../lib/kvm/index.ts';
import { kvmTest, withKvm } from './support.ts';

const CLOSED = expect.objectContaining({ code: 'ERR_KVM_CLOSED' }) as Error;
const STATE = expect.objectContaining({ code: 'ERR_KVM_STATE' }) as Error;

describe('a VM', () => {
  kvmTest('knows its type, its maker and its vCPUs', () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      expect([vm.type, vm.typeName, vm.kvm === kvm, vm.vcpus.size]).toEqual([0, 'default', true, 0]);
      const vcpu = vm.createVcpu(3);
      expect([...vm.vcpus]).toEqual([[3, vcpu]]);
      vcpu.close();
      expect(vm.vcpus.size).toBe(0);
      expect(vm.tier).toBeUndefined();
      expect(vm.fallback).toEqual([]);
    }),
  );

  kvmTest('refuses a second vCPU of the same id, and ids that are none', () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      vm.createVcpu(1);
      expect(() => vm.createVcpu(1)).toThrow(expect.objectContaining({ code: 'EEXIST', syscall: 'KVM_CREATE_VCPU' }));
      expect(() => vm.createVcpu(0x7fff_ffff)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
      expect(() => vm.createVcpu(-1)).toThrow(RangeError);
      expect(() => vm.createVcpu(0n as never)).toThrow(TypeError);
      expect(vm.vcpus.size).toBe(1);
    }),
  );

  kvmTest('is of no use once closed', () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      vm.close();
      for (const use of [
        () => vm.checkExtension(0),
        () => vm.createVcpu(0),
        () => vm.createGuestMemfd(4096),
        () => vm.createIrqchip(),
        () => vm.getClock(),
        () => vm.share(),
        () => vm.getStatsFd(),
        () => vm.enableExitHypercall(),
        () => vm.deleteMemslot(0),
        () => vm.memoryEncryptOp({ command: new Uint8Array(24) }),
      ])
        expect(use).toThrow(CLOSED);
      expect(() => vm.checkExtension(0)).toThrow(/The VM is closed/);
    }),
  );

  kvmTest('of a closed KVM cannot be made', async () => {
    const kvm = await withKvm((handle) => handle);
    expect(() => kvm.createVm()).toThrow(CLOSED);
  });

  kvmTest('is shared by a token that can be cloned', () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      const token = structuredClone(vm.share());
      expect(token).toMatchObject({ kind: 'node-kvm:vm', type: 0 });
      const other = Vm.adopt(token);
      expect([other.typeName, other.checkExtension('KVM_CAP_USER_MEMORY')]).toEqual(['default', 1]);
      expect(() => other.kvm).toThrow(STATE);
      vm.close();
      other.createVcpu(0).getRegs();
      other.close();
      expect(() => Vm.adopt(token)).toThrow();
      for (const wrong of [undefined, null, {}, { kind: 'node-kvm:vcpu', id: 0, token: 1n }, 5]) {
        expect(() => Vm.adopt(wrong as never)).toThrow(TypeError);
      }
    }),
  );
});

describe('capabilities', () => {
  kvmTest('are enabled by name, by number, and by method', { needs: ['KVM_CAP_EXIT_HYPERCALL'] }, () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      vm.enableExitHypercall();
      vm.enableExitHypercall(0n);
      vm.enableCap('KVM_CAP_EXIT_HYPERCALL', [1n << 12n]);
      vm.enableCap(201, [1n << 12n]);
      expect(() => vm.enableExitHypercall(2n)).toThrow(
        expect.objectContaining({ code: 'EINVAL', syscall: 'KVM_ENABLE_CAP' }),
      );
      expect(() => vm.enableCap(201, [4096 as never])).toThrow(TypeError);
      expect(() => vm.enableCap(201, [1n, 2n, 3n, 4n, 5n])).toThrow(RangeError);
      expect(() => vm.enableCap(201, 'x' as never)).toThrow(TypeError);
      expect(() => vm.enableCap('KVM_CAP_NOT' as never)).toThrow(TypeError);
      expect(() => vm.enableCap(0xffff)).toThrow(
        expect.objectContaining({ code: 'EINVAL', hint: expect.stringContaining('does not have') as string }),
      );
    }),
  );

  kvmTest('that come too late are refused by name, also when the vCPU is closed again', () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      vm.createVcpu(0).close();
      for (const late of [
        () => vm.createIrqchip(),
        () => vm.enableSplitIrqchip(24),
        () => vm.enableDirtyLogRing(4096),
        () => vm.setMaxVcpuId(4),
        () => vm.disablePmu(),
        () => vm.disableExits(2n),
        () => vm.setApicBusCyclesNs(1),
        () => vm.enableNotifyVmexit(0),
        () => vm.setBootCpuId(1),
        () => vm.setIdentityMapAddr(0n),
        () => vm.disableNxHugePages(),
      ])
        expect(late).toThrow(STATE);
    }),
  );

  kvmTest('of each kind can be enabled', () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      const offered = (name: Parameters<typeof vm.checkExtension>[0], enable: () => void): void => {
        if (vm.checkExtension(name) !== 0) enable();
      };
      offered('KVM_CAP_X86_USER_SPACE_MSR', () => vm.enableUserSpaceMsr(7n));
      offered('KVM_CAP_EXCEPTION_PAYLOAD', () => vm.enableExceptionPayload());
      offered('KVM_CAP_X86_TRIPLE_FAULT_EVENT', () => vm.enableTripleFaultEvent());
      offered('KVM_CAP_EXIT_ON_EMULATION_FAILURE', () => vm.enableExitOnEmulationFailure());
      offered('KVM_CAP_MSR_PLATFORM_INFO', () => vm.enablePlatformInfo(false));
      offered('KVM_CAP_X2APIC_API', () => vm.enableX2apicApi());
      offered('KVM_CAP_HALT_POLL', () => vm.setHaltPoll(1000));
      offered('KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2', () => vm.enableManualDirtyLogProtect());
      offered('KVM_CAP_DISABLE_QUIRKS2', () =>
        vm.disableQuirks(BigInt(vm.checkExtension('KVM_CAP_DISABLE_QUIRKS2')) & 1n),
      );
      offered('KVM_CAP_MAX_VCPU_ID', () => vm.setMaxVcpuId(8));
      offered('KVM_CAP_SPLIT_IRQCHIP', () => vm.enableSplitIrqchip(24));
      expect(() => vm.createIrqchip()).toThrow(expect.objectContaining({ code: 'EEXIST' }));
      expect(() => vm.setMaxVcpuId(1 << 30)).toThrow(RangeError);
      expect(() => vm.enableSplitIrqchip(4097)).toThrow(RangeError);
      expect(() => vm.enableDirtyLogRing(5000)).toThrow(RangeError);
      vm.createVcpu(0);
    }),
  );

  kvmTest('of encryption say that there is none', () =>
    withKvm((kvm) => {
      const [vm, other] = [kvm.createVm(), kvm.createVm()];
      expect(() => vm.copyEncContextFrom(other)).toThrow(expect.objectContaining({ syscall: 'KVM_ENABLE_CAP' }));
      expect(() => vm.moveEncContextFrom(vm)).toThrow(STATE);
      expect(() => vm.moveEncContextFrom({} as never)).toThrow(TypeError);
      other.close();
      expect(() => vm.copyEncContextFrom(other)).toThrow(CLOSED);
    }),
  );
});
