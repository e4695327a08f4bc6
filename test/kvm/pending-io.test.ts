import { describe, expect } from 'vitest';
import { DATA, expectExit, HLT, IN, MMIO, OUT, realMode } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

/** mov al, [0] */
const LOAD = [0xa0, 0x00, 0x00];
/** movups xmm0, [0] */
const WIDE_LOAD = [0x0f, 0x10, 0x06, 0x00, 0x00];
/** movups [0], xmm0 */
const WIDE_STORE = [0x0f, 0x11, 0x06, 0x00, 0x00];
/** movups xmm0, cs:[0x2000] */
const WIDE_FETCH = [0x2e, 0x0f, 0x10, 0x06, 0x00, 0x20];
const OSFXSR = 0x200n;

describe('an unfinished exit', () => {
  kvmTest('is finished before registers are read', () => {
    const { vcpu } = realMode([...IN, HLT], { regs: { rax: 0x1100n } });
    expectExit(vcpu.runSync(), 'io').data[0] = 0x42;
    expect(vcpu.pendingIo).toBe(true);
    expect(vcpu.getRegs()).toMatchObject({ rip: 0x1002n, rax: 0x1142n });
    expect(vcpu.pendingIo).toBe(false);
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('can be looked at as it is', () => {
    const { vcpu } = realMode([...IN, HLT], { regs: { rax: 0x1100n } });
    const exit = expectExit(vcpu.runSync(), 'io');
    expect(vcpu.getRegs({ pending: 'keep' })).toMatchObject({ rip: 0x1000n, rax: 0x1100n });
    expect(vcpu.getSregs({ pending: 'keep' }).cs.base).toBe(0n);
    exit.data[0] = 0x42;
    expect(vcpu.getRegs()).toMatchObject({ rip: 0x1002n, rax: 0x1142n });
    expect(() => vcpu.getRegs({ pending: 'yes' as never })).toThrow(RangeError);
  });

  kvmTest('does not overwrite registers that are set', () => {
    const { vcpu, memory } = realMode([...IN, HLT]);
    memory.set([0xb0, 0x07, ...OUT, HLT], DATA);
    expectExit(vcpu.runSync(), 'io').data[0] = 0x42;
    vcpu.updateRegs({ rip: BigInt(DATA) });
    expect([...expectExit(vcpu.runSync(), 'io').data]).toEqual([7]);
  });

  kvmTest('is finished by completePendingIo, once', () => {
    const { vcpu } = realMode([...LOAD, HLT], { mmio: true });
    expect(vcpu.completePendingIo()).toBe('none');
    const exit = expectExit(vcpu.runSync(), 'mmio');
    expect(exit).toMatchObject({ direction: 'read', gpa: MMIO });
    expect(exit.data.length).toBe(1);
    exit.data[0] = 0x77;
    expect(vcpu.completePendingIo()).toBe('completed');
    expect(vcpu.completePendingIo()).toBe('none');
    expect(vcpu.getRegs()).toMatchObject({ rip: 0x1003n, rax: 0x77n });
  });

  kvmTest('is none after a halt', () => {
    const { vcpu } = realMode([HLT]);
    vcpu.runSync();
    expect(vcpu.pendingIo).toBe(false);
    expect(vcpu.completePendingIo()).toBe('none');
  });
});

describe('an instruction with more than one exit', () => {
  const wide = (code: number[]) => {
    const guest = realMode([...code, HLT], { mmio: true });
    const sregs = guest.vcpu.getSregs();
    guest.vcpu.setSregs({ ...sregs, cr4: sregs.cr4 | OSFXSR });
    return guest;
  };

  kvmTest('gives the second one on the next run when the first is completed', () => {
    const { vcpu } = wide(WIDE_LOAD);
    const first = expectExit(vcpu.runSync(), 'mmio');
    expect(first).toMatchObject({ direction: 'read', gpa: MMIO });
    first.data.set([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(vcpu.completePendingIo()).toBe('another-exit');
    expect(vcpu.completePendingIo()).toBe('another-exit');
    // Looking is fine, changing is not.
    expect(vcpu.getRegs().rip).toBe(0x1000n);
    expect(() => vcpu.updateRegs({ rax: 1n })).toThrow(
      expect.objectContaining({ name: 'KvmStateError', code: 'ERR_KVM_STATE' }),
    );
    const second = expectExit(vcpu.runSync(), 'mmio');
    expect(second).toMatchObject({ direction: 'read', gpa: MMIO + 8n });
    second.data.set([9, 10, 11, 12, 13, 14, 15, 16]);
    expect(vcpu.getRegs().rip).toBe(0x1005n);
    expect([...vcpu.getFpu().xmm[0]!]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('gives the second one to a promise too', async () => {
    const { vcpu } = wide(WIDE_LOAD);
    expectExit(await vcpu.run(), 'mmio').data.fill(1);
    expect(vcpu.completePendingIo()).toBe('another-exit');
    await expect(vcpu.run({ signal: AbortSignal.abort() })).rejects.toThrow();
    expect(expectExit(await vcpu.run(), 'mmio').gpa).toBe(MMIO + 8n);
  });

  kvmTest('stores in two halves', () => {
    const { vcpu, memory } = wide([...WIDE_FETCH, ...WIDE_STORE]);
    memory.set(
      new Uint8Array(16).map((_, index) => index),
      DATA,
    );
    expect([...expectExit(vcpu.runSync(), 'mmio').data]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect([...expectExit(vcpu.runSync(), 'mmio').data]).toEqual([8, 9, 10, 11, 12, 13, 14, 15]);
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('may be a string instruction', () => {
    // cld; rep insb: cx bytes from port dx to es:di.
    const { vcpu, memory } = realMode([0xfc, 0xf3, 0x6c, HLT], { regs: { rcx: 5n, rdx: 0x10n, rdi: BigInt(DATA) } });
    let bytes = 0;
    for (;;) {
      const exit = vcpu.runSync();
      if (exit.reason === 'hlt') break;
      const io = expectExit(exit, 'io');
      expect(io).toMatchObject({ direction: 'in', size: 1 });
      for (let index = 0; index < io.data.length; index++) io.data[index] = ++bytes;
    }
    expect(bytes).toBe(5);
    expect([...memory.subarray(DATA, DATA + 5)]).toEqual([1, 2, 3, 4, 5]);
    expect(vcpu.getRegs().rcx).toBe(0n);
  });
});
