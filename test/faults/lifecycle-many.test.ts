/** A thousand VMs made and given back, and 64 vCPUs that run at once; fewer under the lab's emulated CPU. */
import { describe, expect } from 'vitest';
import { inLab, kvmTest } from '../kvm/support.ts';
import { APART, clean } from './support.ts';

// In the lab, making a VM takes tens of milliseconds, and threads that spin take all that one processor has.
const VMS = inLab ? 40 : 1000;
const VCPUS = inLab ? 16 : 64;

describe(`${VMS} VMs`, () => {
  kvmTest('that are closed leave nothing', APART, () => clean('many', 'closed', { input: [`${VMS}`] }));

  kvmTest('that are dropped are collected, and not only at the end', APART, async () => {
    const [most] = await clean('many', 'dropped', { input: [`${VMS}`] });
    // Three descriptors each.
    if (!inLab) expect(Number(most)).toBeLessThan(3 * VMS);
  });
});

describe(`${VCPUS} vCPUs that run at once`, () => {
  kvmTest('are all kicked', APART, async () => {
    expect(await clean('many', 'kicked', { input: [`${VCPUS}`] })).toEqual([`${VCPUS}`]);
  });

  kvmTest('are all stopped by closing their VM', APART, async () => {
    expect(await clean('many', 'closedWhileRunning', { input: [`${VCPUS}`] })).toEqual([`${VCPUS}`]);
  });
});
