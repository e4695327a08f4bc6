/** Handles close in every order, while in use and twice, by hand or by the collector; nothing of them stays. */
import { describe, expect } from 'vitest';
import { inLab, kvmTest } from '../kvm/support.ts';
import { APART, clean } from './support.ts';

/** The lab's CPU is emulated: every 48th order there still begins with each handle. */
const STEP = inLab ? '48' : '1';
const ORDERS = `${720 / Number(STEP)} orders`;
const ROUNDS = inLab ? '10' : '100';

describe('closing in every order', () => {
  kvmTest('after a run, children first, parents first, and everything between', APART, async () => {
    expect(await clean('close', 'idle', { input: [STEP] })).toEqual([ORDERS]);
  });

  kvmTest('while the vCPU runs and somebody waits for an eventfd', APART, async () => {
    expect(await clean('close', 'running', { input: [STEP] })).toEqual([ORDERS]);
  });

  if (!inLab) kvmTest('inside the loop over the exits', APART, () => clean('close', 'closeInsideRun'));
});

describe('closing twice', () => {
  kvmTest('every class of handle, which does not touch who has the descriptor then', APART, async () => {
    const [said] = await clean('close', 'twice');
    expect(Number.parseInt(said!, 10)).toBeGreaterThanOrEqual(12);
  });

  if (!inLab) kvmTest('guest memory, its regions, and after its VM', APART, () => clean('close', 'twiceMemory'));
});

describe('what nobody closed is given back by the collector', () => {
  kvmTest('VMs with all that belongs to them', APART, () => clean('close', 'collected', { input: [ROUNDS] }));
  kvmTest('VMs whose vCPUs run, once they stop', APART, () =>
    clean('close', 'collectedAfterRun', { input: [inLab ? '3' : '10'] }),
  );
  kvmTest('a vCPU that runs, not before it was stopped', APART, async () => {
    expect(await clean('close', 'collectedWhileRunning')).toEqual(['interrupted', 'vcpu']);
  });
  // Nothing of KVM.
  if (!inLab) kvmTest('memory that only a view holds', APART, () => clean('close', 'views'));
});
