/** Kicks that meet another end of the same run: each is still seen once. */
import { describe, expect } from 'vitest';
import { Vcpu } from '../../lib/kvm/index.ts';
import { kvmTest } from '../kvm/support.ts';
import { realMode, SPIN } from '../kvm/vcpu-guest.ts';

const KICKED = { reason: 'interrupted', cause: 'kick' };
const TIMED_OUT = { reason: 'interrupted', cause: 'timeout' };

/** Until the vCPU's thread has ended the run; its result is not delivered before the event loop turns. */
function untilEnded(vcpu: Vcpu): void {
  while (vcpu.running);
}

describe('a kick', () => {
  kvmTest('after the run ended at its time-out, and before that was told, is for the next run', async () => {
    const { vcpu } = realMode(SPIN);
    const run = vcpu.run({ timeoutMs: 5 });
    setTimeout(() => {
      untilEnded(vcpu);
      vcpu.kick();
    }, 5);
    expect(await run).toEqual(TIMED_OUT);
    expect(vcpu.runSync({ timeoutMs: 1000 })).toEqual(KICKED);
    expect(vcpu.runSync({ timeoutMs: 5 })).toEqual(TIMED_OUT);
  });

  kvmTest('by another handle wins over the time-out', async () => {
    const { vm, vcpu } = realMode(SPIN);
    const other = Vcpu.adopt(vcpu.share(), vm);
    // Timers of one length fire in the order they were made: the kick, then the time-out.
    setTimeout(() => other.kick(), 5);
    expect(await vcpu.run({ timeoutMs: 5 })).toEqual(KICKED);
    expect(vcpu.runSync({ timeoutMs: 5 })).toEqual(TIMED_OUT);
  });

  kvmTest('in the moment of an abort is for the next run', async () => {
    const { vm, vcpu } = realMode(SPIN);
    const other = Vcpu.adopt(vcpu.share(), vm);
    for (const by of [other, vcpu]) {
      const controller = new AbortController();
      const run = vcpu.run({ signal: controller.signal });
      by.kick();
      controller.abort(new Error('aborted'));
      await expect(run).rejects.toThrow('aborted');
      expect(vcpu.runSync({ timeoutMs: 1000 })).toEqual(KICKED);
      expect(vcpu.runSync({ timeoutMs: 5 })).toEqual(TIMED_OUT);
    }
  });
});
