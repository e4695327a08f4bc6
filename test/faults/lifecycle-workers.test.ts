/** Workers that are terminated in the middle of everything. Whatever they held is given back to the kernel. */
import { describe, expect } from 'vitest';
import { inLab, kvmTest } from '../kvm/support.ts';
import type { Need } from '../kvm/support.ts';
import { APART, clean } from './support.ts';

/** A worker takes a second or more to start in the lab. */
const TIMES = inLab ? 4 : 100;

const TASKS: Record<string, { what: string; times: number; needs?: readonly Need[] }> = {
  runSync: { what: 'a run in its own thread', times: TIMES },
  run: { what: "a run on the vCPU's thread", times: TIMES },
  exits: { what: 'a loop over exits', times: inLab ? 0 : 25 },
  wait: { what: 'a wait for an eventfd', times: inLab ? 0 : 25 },
  advise: { what: 'populating memory', times: inLab ? 0 : 25 },
  convert: { what: 'an asynchronous conversion', times: TIMES, needs: ['private-memory'] },
  convertSync: { what: 'a conversion', times: TIMES, needs: ['private-memory'] },
  prefault: { what: 'a pre-fault', times: TIMES, needs: ['private-memory', 'KVM_CAP_PRE_FAULT_MEMORY'] },
};

describe('terminating a worker in the middle of', () => {
  for (const [task, { what, times, needs = [] }] of Object.entries(TASKS)) {
    // What the host has shown needs no showing under emulation.
    if (times === 0) continue;
    kvmTest(`${what}, ${times} times`, { needs, ...APART }, async () => {
      expect(await clean('terminate', 'rounds', { input: [task, `${times}`] })).toEqual([`${times} ended`]);
    });
  }
});
