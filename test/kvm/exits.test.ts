import { describe, expect } from 'vitest';
import { answerHypercall, answerRead, accessValue } from '../../lib/kvm/index.ts';
import { DATA, expectExit, hardwareTest, HLT, MMIO, realMode } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

describe('port exits', () => {
  kvmTest('have every width', () => {
    // out 0x10, al; out 0x12, ax; out 0x14, eax; the same with in
    const { vcpu } = realMode(
      [0xe6, 0x10, 0xe7, 0x12, 0x66, 0xe7, 0x14, 0xe4, 0x10, 0xe5, 0x12, 0x66, 0xe5, 0x14, HLT],
      { regs: { rax: 0x8877_6655n } },
    );
    for (const [port, size, value] of [
      [0x10, 1, 0x55],
      [0x12, 2, 0x6655],
      [0x14, 4, 0x8877_6655],
    ] as const) {
      const exit = expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'io');
      expect(exit).toMatchObject({ direction: 'out', port, size, count: 1 });
      expect(accessValue(exit)).toBe(value);
    }
    for (const value of [0x11, 0x2222, 0xf333_3333]) {
      answerRead(expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'io'), value);
    }
    expect(vcpu.getRegs().rax).toBe(0xf333_3333n);
    expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'hlt');
  });

  kvmTest('of string instructions have all their bytes', () => {
    // cld; rep outsb: cx bytes from ds:si to port dx.
    const { vcpu, memory } = realMode([0xfc, 0xf3, 0x6e, HLT], { regs: { rcx: 5n, rdx: 0x3f8n, rsi: BigInt(DATA) } });
    memory.set(Buffer.from('hello'), DATA);
    let text = '';
    for (;;) {
      const exit = vcpu.runSync({ timeoutMs: 5000 });
      if (exit.reason === 'hlt') break;
      text += Buffer.from(expectExit(exit, 'io').data).toString('latin1');
    }
    expect(text).toBe('hello');
  });
});

describe('MMIO exits', () => {
  kvmTest('have every width up to 4, in both directions', () => {
    // mov [0], al; mov [2], ax; mov [4], eax; mov eax, [8]
    const { vcpu } = realMode([0xa2, 0, 0, 0xa3, 2, 0, 0x66, 0xa3, 4, 0, 0x66, 0xa1, 8, 0, HLT], {
      mmio: true,
      regs: { rax: 0x8877_6655n },
    });
    for (const [offset, length, value] of [
      [0n, 1, 0x55],
      [2n, 2, 0x6655],
      [4n, 4, 0x8877_6655],
    ] as const) {
      const exit = expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'mmio');
      expect(exit).toMatchObject({ direction: 'write', gpa: MMIO + offset });
      expect(exit.data.length).toBe(length);
      expect(accessValue(exit)).toBe(value);
    }
    const read = expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'mmio');
    expect(read).toMatchObject({ direction: 'read', gpa: MMIO + 8n });
    answerRead(read, 0xcafe_f00d);
    expect(vcpu.getRegs().rax).toBe(0xcafe_f00dn);
  });
});

describe('the end of a guest', () => {
  kvmTest('by a triple fault is a shutdown', () => {
    // ud2 in protected mode, with no room for an exception in the IDT.
    const { vcpu } = realMode([0x0f, 0x0b]);
    const { cs, ds } = vcpu.getSregs();
    const rights = { present: true, dpl: 0, db: true, s: true, l: false, g: true, unusable: false };
    const flat = { ...rights, base: 0n, limit: 0xffff_ffff };
    const data = { ...ds, ...flat, type: 3, selector: 16 };
    vcpu.updateSregs({
      cr0: 0x11n,
      cs: { ...cs, ...flat, type: 11, selector: 8 },
      ds: data,
      es: data,
      ss: data,
      idt: { base: 0n, limit: 0 },
    });
    expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'shutdown');
  });

  kvmTest('by code where no memory is, is an internal error', () => {
    const { vcpu } = realMode([HLT]);
    const sregs = vcpu.getSregs();
    vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: MMIO } });
    vcpu.updateRegs({ rip: 0n });
    const exit = expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'internal-error');
    expect(exit).toMatchObject({ suberror: 'emulation', code: 1 });
  });
});

describe('hypercall exits', () => {
  const MAP_GPA_RANGE = 12n;
  const VMCALL = [0x0f, 0x01, 0xc1];
  const VMMCALL = [0x0f, 0x01, 0xd9];
  const regs = { rax: MAP_GPA_RANGE, rbx: 0x2000n, rcx: 3n, rdx: 0x10n };
  const amd = (vendor: { ebx: number }[]) => vendor[0]!.ebx === 0x6874_7541;

  hardwareTest('give the guest what is answered, or -ENOSYS', () => {
    for (const [answer, expected] of [
      [undefined, 0xffff_fc18n],
      [0n, 0n],
      [-22n, 0xffff_ffean],
    ] as const) {
      const guest = realMode([], { regs, prepare: (vm) => vm.enableExitHypercall() });
      const vendor = guest.kvm.getSupportedCpuid().filter((entry) => entry.function === 0);
      guest.memory.set([...(amd(vendor) ? VMMCALL : VMCALL), HLT], 0x1000);
      const exit = expectExit(guest.vcpu.runSync({ timeoutMs: 5000 }), 'hypercall');
      expect(exit).toMatchObject({ nr: 12, longMode: false });
      expect(exit.args.slice(0, 3)).toEqual([0x2000n, 3n, 0x10n]);
      expect(exit.ret[0]).toBe(-1000n);
      if (answer !== undefined) answerHypercall(exit, answer);
      expectExit(guest.vcpu.runSync({ timeoutMs: 5000 }), 'hlt');
      expect(guest.vcpu.getRegs().rax).toBe(expected);
    }
  });
});

describe('what surrounds an exit', () => {
  kvmTest('is in the mapping', () => {
    const { vcpu } = realMode([0xfb, HLT, HLT]);
    vcpu.runSync({ timeoutMs: 5000 });
    expect(vcpu.interruptFlag).toBe(true);
    expect(vcpu.runFlags & 1).toBe(0);
    expect(vcpu.apicBase & 0xffff_f000n).toBe(0xfee0_0000n);
    vcpu.cr8 = 3n;
    expect(vcpu.cr8).toBe(3n);
    expect(vcpu.exitPayload.length).toBe(256);
  });

  hardwareTest('can be a window for interrupts', () => {
    // sti; nop; nop; hlt
    const { vcpu, memory } = realMode([0xfb, 0x90, 0x90, HLT], { regs: { rsp: 0x8000n } });
    // Vector 0x21 of the real-mode table: 0000:2000, where the handler executes out 0x10, al.
    memory.set([DATA & 0xff, DATA >> 8, 0, 0], 0x21 * 4);
    memory.set([0xe6, 0x10, HLT], DATA);
    vcpu.requestInterruptWindow = true;
    expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'irq-window-open');
    expect(vcpu.readyForInterruptInjection).toBe(true);
    vcpu.requestInterruptWindow = false;
    vcpu.interrupt(0x21);
    expect(expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'io').port).toBe(0x10);
    expect(() => vcpu.interrupt(256)).toThrow(RangeError);
  });
});
