import { describe, expect } from 'vitest';
import { DATA, expectExit, HLT, IN, OUT, realMode } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

const needs = ['KVM_CAP_SYNC_REGS'] as const;

describe('sync registers', () => {
  kvmTest('have to be enabled', { needs }, () => {
    const { vcpu } = realMode([HLT]);
    expect(vcpu.syncRegs.enabled).toEqual([]);
    expect(() => vcpu.syncRegs.regs).toThrow(/call syncRegs.enable\('regs'\)/);
    expect(() => vcpu.syncRegs.enable('fpu' as never)).toThrow(RangeError);
    vcpu.syncRegs.enable('regs', 'events');
    expect(vcpu.syncRegs.enabled).toEqual(['regs', 'events']);
    vcpu.syncRegs.disable('events');
    expect(vcpu.syncRegs.enabled).toEqual(['regs']);
    vcpu.syncRegs.disable();
    expect(vcpu.syncRegs.enabled).toEqual([]);
  });

  kvmTest('are those of the exit', { needs }, () => {
    // mov al, 0x41; out 0x10, al; hlt
    const { vcpu } = realMode([0xb0, 0x41, ...OUT, HLT], { regs: { rbx: 0x1234n } });
    vcpu.syncRegs.enable('regs', 'sregs', 'events');
    // Before the first run they come by ioctl.
    expect(vcpu.syncRegs.get('rbx')).toBe(0x1234n);
    expectExit(vcpu.runSync(), 'io');
    expect(vcpu.syncRegs.get('rax') & 0xffn).toBe(0x41n);
    expectExit(vcpu.runSync(), 'hlt');
    expect(vcpu.syncRegs.get('rip')).toBe(0x1005n);
    expect(vcpu.syncRegs.regs).toEqual(vcpu.getRegs());
    expect(vcpu.syncRegs.sregs).toEqual(vcpu.getSregs());
    expect(vcpu.syncRegs.events).toEqual(vcpu.getVcpuEvents());
  });

  kvmTest('are written with effect from the next run', { needs }, () => {
    const { vcpu, memory } = realMode([HLT]);
    memory.set([...OUT, HLT], DATA);
    vcpu.syncRegs.enable('regs');
    expectExit(vcpu.runSync(), 'hlt');
    vcpu.syncRegs.set('rip', BigInt(DATA));
    vcpu.syncRegs.set('rax', 0x55n);
    expect(vcpu.syncRegs.get('rax')).toBe(0x55n);
    expect([...expectExit(vcpu.runSync(), 'io').data]).toEqual([0x55]);
    vcpu.syncRegs.regs = { ...vcpu.syncRegs.regs, rip: BigInt(DATA), rax: 0x66n };
    expect([...expectExit(vcpu.runSync(), 'io').data]).toEqual([0x66]);
    expect(() => vcpu.syncRegs.set('rip', 1 as never)).toThrow(TypeError);
    expect(() => vcpu.syncRegs.set('eax' as never, 1n)).toThrow(/one of 'rax'/);
  });

  kvmTest('are not overwritten by an exit that is not finished', { needs }, () => {
    const { vcpu, memory } = realMode([...IN, HLT]);
    memory.set([...OUT, HLT], DATA);
    vcpu.syncRegs.enable('regs');
    expectExit(vcpu.runSync(), 'io').data[0] = 0x42;
    vcpu.syncRegs.set('rip', BigInt(DATA));
    expect([...expectExit(vcpu.runSync(), 'io').data]).toEqual([0x42]);
  });

  kvmTest('agree with the ioctls in both directions', { needs }, () => {
    const { vcpu } = realMode([HLT, HLT]);
    vcpu.syncRegs.enable('regs', 'sregs');
    expectExit(vcpu.runSync(), 'hlt');
    vcpu.syncRegs.set('rbx', 1n);
    expect(vcpu.getRegs().rbx).toBe(1n);
    vcpu.updateRegs({ rbx: 2n });
    expect(vcpu.syncRegs.get('rbx')).toBe(2n);
    vcpu.syncRegs.set('rcx', 3n);
    vcpu.updateRegs({ rdx: 4n });
    vcpu.syncRegs.sregs = { ...vcpu.syncRegs.sregs, cr2: 0x7000n };
    expect(vcpu.getSregs().cr2).toBe(0x7000n);
    expectExit(vcpu.runSync(), 'hlt');
    expect(vcpu.syncRegs.regs).toMatchObject({ rbx: 2n, rcx: 3n, rdx: 4n });
    expect(vcpu.syncRegs.regs).toEqual(vcpu.getRegs());
  });

  kvmTest('work with promises', { needs }, async () => {
    const { vcpu } = realMode([...OUT, 0xeb, 0xfc, HLT]);
    vcpu.syncRegs.enable('regs');
    let rounds = 0;
    for await (const exit of vcpu.exits()) {
      expectExit(exit, 'io');
      if (++rounds === 5) break;
      const run = vcpu.syncRegs.get('rip');
      expect(run === 0x1000n || run === 0x1002n).toBe(true);
    }
    expect(rounds).toBe(5);
  });

  kvmTest('are refused by KVM where they contradict each other', { needs }, () => {
    const { vcpu } = realMode([HLT]);
    vcpu.syncRegs.enable('sregs');
    // Paging without protection.
    vcpu.syncRegs.sregs = { ...vcpu.syncRegs.sregs, cr0: 0x8000_0000n };
    expect(() => vcpu.runSync()).toThrow(expect.objectContaining({ code: 'EINVAL', syscall: 'KVM_RUN' }));
  });

  kvmTest('cannot be used while the vCPU runs or after close', { needs }, async () => {
    const { vcpu } = realMode([0xeb, 0xfe]);
    vcpu.syncRegs.enable('regs');
    const run = vcpu.run();
    expect(() => vcpu.syncRegs.get('rip')).toThrow(expect.objectContaining({ code: 'ERR_KVM_RUNNING' }));
    vcpu.kick();
    await run;
    expect(vcpu.syncRegs.get('rip')).toBe(0x1000n);
    vcpu.close();
    expect(() => vcpu.syncRegs.get('rip')).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  });
});
