import { describe, expect } from 'vitest';
import { expectExit, HLT, OUT, realMode, SPIN } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

const kicked = { reason: 'interrupted', cause: 'kick' };

describe('kick', () => {
  kvmTest('ends the run in progress', async () => {
    const { vcpu } = realMode(SPIN);
    const run = vcpu.run();
    setTimeout(() => vcpu.kick(), 10);
    expect(await run).toEqual(kicked);
  });

  kvmTest('ends the run that has just been started', async () => {
    const { vcpu } = realMode(SPIN);
    for (let round = 0; round < 50; round++) {
      const run = vcpu.run();
      vcpu.kick();
      expect(await run).toEqual(kicked);
    }
  });

  kvmTest('ends the next run where there is none, before the guest executes anything', async () => {
    const { vcpu } = realMode([...OUT, HLT]);
    vcpu.kick();
    vcpu.kick();
    expect(vcpu.runSync()).toEqual(kicked);
    expect(vcpu.getRegs().rip).toBe(0x1000n);
    vcpu.kick();
    expect(await vcpu.run()).toEqual(kicked);
    expectExit(vcpu.runSync(), 'io');
  });

  kvmTest('is not lost to an exit of the same moment', async () => {
    // out 0x10, al; jmp back: the guest exits all the time, so most kicks meet an exit.
    const { vcpu } = realMode([...OUT, 0xeb, 0xfc]);
    for (let round = 0; round < 200; round++) {
      const first = vcpu.run();
      vcpu.kick();
      const exits = [await first, vcpu.runSync()];
      expect(exits.filter(({ reason }) => reason === 'interrupted')).toHaveLength(1);
    }
  });

  kvmTest('is kept while an exit is completed', () => {
    const { vcpu } = realMode([...OUT, HLT]);
    expectExit(vcpu.runSync(), 'io');
    vcpu.kick();
    expect(vcpu.completePendingIo()).toBe('completed');
    expect(vcpu.runSync()).toEqual(kicked);
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('wins over a time-out in its report', async () => {
    const { vcpu } = realMode(SPIN);
    const run = vcpu.run({ timeoutMs: 10_000 });
    setTimeout(() => vcpu.kick(), 10);
    expect(await run).toEqual(kicked);
  });

  kvmTest('throws after close', () => {
    const { vcpu } = realMode(SPIN);
    vcpu.close();
    expect(() => vcpu.kick()).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  });
});
