import { describe, expect, it } from 'vitest';
import { inLab, kvmTest } from './support.ts';
import { expectExit, hardwareTest, HLT, OUT, realMode } from './vcpu-guest.ts';

const needs = ['KVM_CAP_SET_GUEST_DEBUG'] as const;
const NOP = 0x90;
const INT3 = 0xcc;

/** The processor that the lab emulates never reports the exceptions of INT3 and of breakpoints to its hypervisor. */
function breakpointTest(name: string, test: typeof hardwareTest, run: () => void): void {
  if (inLab) it.skip(`${name} [needs a processor that intercepts #BP and #DB]`);
  else test(name, run);
}

describe('guest debugging', () => {
  kvmTest('steps through instructions', { needs }, () => {
    const { vcpu } = realMode([NOP, NOP, NOP, HLT]);
    vcpu.setGuestDebug({ singlestep: true });
    for (const pc of [0x1001n, 0x1002n, 0x1003n]) {
      expect(expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'debug')).toMatchObject({ exception: 1, pc });
    }
    vcpu.setGuestDebug({});
    expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'hlt');
  });

  breakpointTest('stops at INT3', hardwareTest, () => {
    const { vcpu, memory } = realMode([NOP, INT3, HLT]);
    vcpu.setGuestDebug({ useSwBp: true });
    expect(expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'debug')).toMatchObject({ exception: 3, pc: 0x1001n });
    memory[0x1001] = NOP;
    expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'hlt');
  });

  breakpointTest('stops at hardware breakpoints', kvmTest, () => {
    const { vcpu } = realMode([NOP, NOP, NOP, ...OUT, HLT]);
    vcpu.setGuestDebug({ useHwBp: true, addresses: [0x1002n] });
    const exit = expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'debug');
    expect(exit).toMatchObject({ exception: 1, pc: 0x1002n });
    expect(exit.dr6 & 1n).toBe(1n);
    vcpu.setGuestDebug({});
    expectExit(vcpu.runSync({ timeoutMs: 5000 }), 'io');
  });

  kvmTest('refuses bad options', { needs }, () => {
    const { vcpu } = realMode([HLT]);
    expect(() => vcpu.setGuestDebug({ singleStep: true } as never)).toThrow(/did you mean singlestep/);
    expect(() => vcpu.setGuestDebug({ singlestep: 1 as never })).toThrow(TypeError);
    expect(() => vcpu.setGuestDebug({ addresses: [1n, 2n, 3n, 4n, 5n] })).toThrow(/at most 4/);
    expect(() => vcpu.setGuestDebug({ addresses: [1 as never] })).toThrow(/write 1n/);
  });
});
