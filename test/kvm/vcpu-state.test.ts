import { describe, expect } from 'vitest';
import { lapicRegister, setLapicRegister } from '../../lib/kvm/index.ts';
import { hardwareTest, HLT, realMode } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

const systemError = (code: string, message: RegExp) =>
  expect.objectContaining({ name: 'KvmSystemError', code, message: expect.stringMatching(message) });

describe('registers', () => {
  kvmTest('are set whole', () => {
    const { vcpu } = realMode([HLT]);
    const regs = { ...vcpu.getRegs(), rax: 1n, r15: 0xffff_ffff_ffff_ffffn, rip: 0x1000n, rflags: 0x202n };
    vcpu.setRegs(regs);
    expect(vcpu.getRegs()).toEqual(regs);
  });

  kvmTest('are changed one at a time', () => {
    const { vcpu } = realMode([HLT]);
    const before = vcpu.getRegs();
    vcpu.updateRegs({ rbx: 7n });
    expect(vcpu.getRegs()).toEqual({ ...before, rbx: 7n });
    const { cs } = vcpu.getSregs();
    vcpu.updateSregs({ cr2: 0x1234n, cs: { ...cs, base: 0x100n, selector: 0x10 } });
    expect(vcpu.getSregs()).toMatchObject({ cr2: 0x1234n, cs: { base: 0x100n, selector: 0x10 } });
  });

  kvmTest('refuse what is no register or no value', () => {
    const { vcpu } = realMode([HLT]);
    const before = vcpu.getRegs();
    expect(() => vcpu.updateRegs({ eax: 1n } as never)).toThrow(/Expected no key eax in regs/);
    expect(() => vcpu.updateRegs({ rip: 1 as never })).toThrow(/a bigint for regs.rip but received 1 .*write 1n/);
    expect(() => vcpu.updateRegs({ rax: 5n, rip: 1n << 64n })).toThrow(RangeError);
    expect(() => vcpu.setRegs({ rax: 1n } as never)).toThrow(TypeError);
    expect(vcpu.getRegs()).toEqual(before);
  });

  kvmTest('of the segment kind come in both versions', { needs: ['KVM_CAP_SREGS2'] }, () => {
    const { vcpu } = realMode([HLT]);
    const sregs2 = vcpu.getSregs2();
    const { interruptBitmap, ...shared } = vcpu.getSregs();
    expect(interruptBitmap).toEqual([0n, 0n, 0n, 0n]);
    expect(sregs2).toMatchObject(shared);
    vcpu.setSregs2({ ...sregs2, cr2: 0x5000n });
    expect(vcpu.getSregs2().cr2).toBe(0x5000n);
  });

  kvmTest('that contradict each other are refused with a hint', () => {
    const { vcpu } = realMode([HLT]);
    expect(() => vcpu.updateSregs({ cr0: 0x8000_0000n })).toThrow(systemError('EINVAL', /contradict each other/));
  });

  kvmTest('after close are not there', () => {
    const { vcpu } = realMode([HLT]);
    vcpu.close();
    for (const call of [() => vcpu.getRegs(), () => vcpu.getFpu(), () => vcpu.getXsave(), () => vcpu.cr8]) {
      expect(call).toThrow(expect.objectContaining({ name: 'KvmStateError', code: 'ERR_KVM_CLOSED' }));
    }
    expect(vcpu.running).toBe(false);
  });
});

describe('extended state', () => {
  kvmTest('FPU', () => {
    const { vcpu } = realMode([HLT]);
    const fpu = vcpu.getFpu();
    expect(fpu.fcw).toBe(0x37f);
    fpu.xmm[15] = new Uint8Array(16).fill(0xab);
    fpu.fpr[0]!.set([1, 2, 3]);
    vcpu.setFpu(fpu);
    expect(vcpu.getFpu().xmm[15]).toEqual(new Uint8Array(16).fill(0xab));
  });

  kvmTest('XSAVE', { needs: ['KVM_CAP_XSAVE'] }, () => {
    const { vcpu, vm } = realMode([HLT]);
    const state = vcpu.getXsave();
    expect(state.length).toBe(Math.max(4096, vm.checkExtension('KVM_CAP_XSAVE2')));
    vcpu.setXsave(state);
    expect(vcpu.getXsave()).toEqual(state);
    expect(() => vcpu.setXsave(state.subarray(1))).toThrow();
    expect(() => vcpu.setXsave([] as never)).toThrow(TypeError);
  });

  kvmTest('XCRs', { needs: ['KVM_CAP_XCRS'] }, () => {
    const { vcpu } = realMode([HLT]);
    expect(vcpu.getXcrs()).toEqual([{ xcr: 0, value: 1n }]);
    vcpu.setXcrs([{ xcr: 0, value: 1n }]);
    expect(() => vcpu.setXcrs([{ xcr: 0, value: 0n }])).toThrow(systemError('EINVAL', /XCR0 needs bit 0/));
    expect(() => vcpu.setXcrs(new Array(17).fill({ xcr: 0, value: 1n }))).toThrow(/at most 16/);
  });

  kvmTest('debug registers', { needs: ['KVM_CAP_DEBUGREGS'] }, () => {
    const { vcpu } = realMode([HLT]);
    const debugregs = vcpu.getDebugregs();
    vcpu.setDebugregs({ ...debugregs, db: [1n, 2n, 3n, 4n] });
    expect(vcpu.getDebugregs().db).toEqual([1n, 2n, 3n, 4n]);
    expect(() => vcpu.setDebugregs({ ...debugregs, flags: 1n })).toThrow(systemError('EINVAL', /flags must be 0n/));
  });
});

describe('events and the local APIC', () => {
  kvmTest('events', { needs: ['KVM_CAP_VCPU_EVENTS'] }, () => {
    const { vcpu } = realMode([HLT]);
    const events = vcpu.getVcpuEvents();
    expect(events.nmi.masked).toBe(false);
    vcpu.setVcpuEvents({ ...events, nmi: { ...events.nmi, masked: true } });
    expect(vcpu.getVcpuEvents().nmi.masked).toBe(true);
  });

  kvmTest('NMI', { needs: ['KVM_CAP_USER_NMI'] }, () => {
    const { vcpu } = realMode([HLT]);
    vcpu.nmi();
    const { nmi } = vcpu.getVcpuEvents();
    expect(nmi.injected || nmi.pending > 0).toBe(true);
  });

  kvmTest('MP state', { needs: ['KVM_CAP_MP_STATE'] }, () => {
    const { vcpu } = realMode([HLT]);
    expect(vcpu.getMpState()).toBe('runnable');
    vcpu.setMpState('runnable');
    expect(() => vcpu.setMpState('halted')).toThrow(systemError('EINVAL', /createIrqchip/));
    expect(() => vcpu.setMpState('stopped' as never)).toThrow(/one of 'runnable'/);
    const withApic = realMode([HLT], { prepare: (vm) => vm.createIrqchip() }).vcpu;
    withApic.setMpState('halted');
    expect(withApic.getMpState()).toBe('halted');
  });

  kvmTest('the register page', { needs: ['KVM_CAP_IRQCHIP'] }, () => {
    const { vcpu } = realMode([HLT], { prepare: (vm) => vm.createIrqchip() });
    const page = vcpu.getLapic();
    expect(page.length).toBe(1024);
    expect(lapicRegister(page, 0x30) & 0xff).toBeGreaterThanOrEqual(0x10);
    setLapicRegister(page, 0x80, 0x20);
    vcpu.setLapic(page);
    expect(lapicRegister(vcpu.getLapic(), 0x80)).toBe(0x20);
    expect(() => vcpu.setLapic(new Uint8Array(1023))).toThrow(/1024 bytes/);
    const without = realMode([HLT]).vcpu;
    expect(() => without.getLapic()).toThrow(systemError('EINVAL', /local APIC of this vCPU is not in the kernel/));
  });
});

describe('the rest', () => {
  kvmTest('translation without paging', () => {
    const { vcpu } = realMode([HLT]);
    expect(vcpu.translate(0x1234n)).toMatchObject({ gva: 0x1234n, gpa: 0x1234n });
    expect(() => vcpu.translate(1 as never)).toThrow(TypeError);
  });

  hardwareTest('translation with paging', () => {
    const { vcpu, memory } = realMode([HLT]);
    // 32-bit paging: directory at 0x4000, one table at 0x5000, which maps page 3 to 7, read-only and for the kernel.
    const view = new DataView(memory.buffer, memory.byteOffset);
    view.setUint32(0x4000, 0x5003, true);
    view.setUint32(0x5000 + 3 * 4, 0x7001, true);
    vcpu.updateSregs({ cr0: 0x8000_0011n, cr3: 0x4000n });
    expect(vcpu.translate(0x3abcn)).toMatchObject({ gva: 0x3abcn, gpa: 0x7abcn });
    expect(vcpu.translate(0x4000n)).toBeUndefined();
  });

  kvmTest('TSC frequency', { needs: ['KVM_CAP_GET_TSC_KHZ'] }, () => {
    const { vcpu, vm } = realMode([HLT]);
    const khz = vcpu.getTscKhz();
    expect(khz).toBeGreaterThan(100_000);
    expect(() => vcpu.setTscKhz(-1)).toThrow(RangeError);
    if (vm.checkExtension('KVM_CAP_TSC_CONTROL') === 0) return;
    vcpu.setTscKhz(khz);
    expect(vcpu.getTscKhz()).toBe(khz);
  });

  hardwareTest('TSC offset', () => {
    const { vcpu } = realMode([HLT]);
    expect(vcpu.hasDeviceAttr(0, 0n)).toBe(true);
    expect(vcpu.hasDeviceAttr(77, 0n)).toBe(false);
    const offset = vcpu.getTscOffset();
    vcpu.setTscOffset(offset + 4096n);
    expect(vcpu.getTscOffset()).toBe(offset + 4096n);
  });

  kvmTest('one register by its identifier', () => {
    const { vcpu, vm } = realMode([HLT]);
    const id = 0x2030_0002_0000_0000n | 0x174n;
    if (vm.checkExtension('KVM_CAP_ONE_REG') === 0) {
      const unsupported = expect.objectContaining({ name: 'KvmUnsupportedError', capability: 'KVM_CAP_ONE_REG' });
      expect(() => vcpu.getOneReg(id)).toThrow(unsupported);
      expect(() => vcpu.setOneReg(id, 1n)).toThrow(unsupported);
      expect(() => vcpu.getRegList()).toThrow(unsupported);
      return;
    }
    vcpu.setOneReg(id, 0x33n);
    expect(vcpu.getOneReg(id)).toBe(0x33n);
    expect(vcpu.getMsr(0x174)).toBe(0x33n);
    expect(Array.isArray(vcpu.getRegList())).toBe(true);
    expect(() => vcpu.setOneReg(id, 1n << 64n)).toThrow(RangeError);
  });

  kvmTest('statistics', { needs: ['KVM_CAP_BINARY_STATS_FD'] }, () => {
    const { vcpu } = realMode([HLT]);
    vcpu.runSync();
    const stats = vcpu.getStatsFd();
    expect(stats.closed).toBe(false);
    vcpu.close();
    expect(stats.closed).toBe(true);
  });

  kvmTest('signal mask, capabilities, kvmclock', () => {
    const { vcpu } = realMode([HLT]);
    vcpu.setSignalMask(undefined);
    expect(() => vcpu.enableCap(9999)).toThrow(systemError('EINVAL', /not a capability of vCPUs/));
    expect(() => vcpu.enableCap('KVM_CAP_NONE' as never)).toThrow();
    expect(() => vcpu.kvmclockCtrl()).toThrow(systemError('EINVAL', /does not use kvmclock/));
  });

  kvmTest('machine checks', { needs: ['KVM_CAP_MCE'] }, () => {
    const { kvm, vcpu } = realMode([HLT]);
    const banks = 10n;
    vcpu.setupMce((kvm.getMceCapSupported() & ~0xffn) | banks);
    expect(vcpu.getMsr(0x179) & 0xffn).toBe(banks);
  });

  kvmTest('pre-fault', { needs: ['KVM_CAP_PRE_FAULT_MEMORY'] }, async () => {
    const { vcpu } = realMode([HLT]);
    expect(vcpu.preFaultMemory({ gpa: 0n, size: 0x4000 })).toEqual({ done: 0x4000n, gpa: 0x4000n, size: 0n });
    expect(await vcpu.preFaultMemoryAsync({ gpa: 0n, size: 0x1_0000 })).toEqual({
      done: 0x1_0000n,
      gpa: 0x1_0000n,
      size: 0n,
    });
    expect(vcpu.preFaultMemory({ gpa: 0xf000n, size: 0x2000 })).toEqual({
      done: 0x1000n,
      gpa: 0x1_0000n,
      size: 0x1000n,
    });
    expect(() => vcpu.preFaultMemory({ gpa: 0x1_0000n, size: 4096 })).toThrow(systemError('ENOENT', /no memslot/));
    await expect(vcpu.preFaultMemoryAsync({ gpa: 0x1_0000n, size: 4096 })).rejects.toMatchObject({ code: 'ENOENT' });
    expect(vcpu.runSync().reason).toBe('hlt');
  });

  kvmTest('pre-fault where there is none', () => {
    const { vcpu, vm } = realMode([HLT]);
    expect(() => vcpu.preFaultMemory({ gpa: 1n, size: 4096 })).toThrow(RangeError);
    expect(() => vcpu.preFaultMemory({ gpa: 0n, size: 0 })).toThrow(RangeError);
    if (vm.checkExtension('KVM_CAP_PRE_FAULT_MEMORY') !== 0) return;
    expect(() => vcpu.preFaultMemory({ gpa: 0n, size: 4096 })).toThrow(/KVM_CAP_PRE_FAULT_MEMORY/);
  });
});
