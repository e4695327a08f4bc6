/** Binary statistics of a VM and a vCPU. */
import { expect } from 'vitest';
import { HLT, OUT, realMode } from './vcpu-guest.ts';
import { kvmTest, withKvm } from './support.ts';

const NEEDS = { needs: ['KVM_CAP_BINARY_STATS_FD'] } as const;

kvmTest('a VM describes and counts', NEEDS, () =>
  withKvm((kvm) => {
    const vm = kvm.createVm();
    const stats = vm.getStatsFd();
    expect(stats.id).toMatch(/^kvm-\d+/);
    expect(stats.descriptors.length).toBeGreaterThan(0);
    for (const descriptor of stats.descriptors) {
      expect(descriptor.name).toMatch(/^[a-z0-9_]+$/i);
      expect(descriptor.count).toBeGreaterThan(0);
      expect([2, 10]).toContain(descriptor.base);
      expect([descriptor.type, descriptor.unit]).not.toContain('unknown');
    }
    const values = stats.read();
    expect(Object.keys(values)).toEqual(stats.descriptors.map(({ name }) => name));
    for (const { name, count } of stats.descriptors) {
      const value = values[name]!;
      if (count === 1) expect(value).toBeTypeOf('bigint');
      else expect(value).toHaveLength(count);
    }
  }),
);

kvmTest('a vCPU counts its exits', NEEDS, async () => {
  const { vcpu } = realMode([...OUT, ...OUT, HLT]);
  const stats = vcpu.getStatsFd();
  expect(stats.id).toMatch(/vcpu-0/);
  const before = stats.read();
  for (let exit = await vcpu.run(); exit.reason !== 'hlt';) exit = await vcpu.run();
  const after = stats.read();
  const grown = stats.descriptors.filter(({ name, count }) => count === 1 && after[name]! > before[name]!);
  expect(grown.map(({ name }) => name)).toContain('exits');
  const histograms = stats.descriptors.filter(({ type }) => type === 'log-histogram' || type === 'linear-histogram');
  for (const { name, count } of histograms) expect(after[name]).toHaveLength(count);
});

kvmTest('they end with their VM', NEEDS, () =>
  withKvm((kvm) => {
    const vm = kvm.createVm();
    const [ofVm, ofVcpu] = [vm.getStatsFd(), vm.createVcpu(0).getStatsFd()];
    expect(ofVm.fd).toBeGreaterThan(2);
    vm.close();
    expect([ofVm.closed, ofVcpu.closed]).toEqual([true, true]);
    expect(() => ofVm.read()).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  }),
);

kvmTest('one can be closed alone, and another be had', NEEDS, () =>
  withKvm((kvm) => {
    const vm = kvm.createVm();
    const first = vm.getStatsFd();
    first.close();
    first.close();
    expect(() => first.read()).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
    expect(vm.getStatsFd().descriptors).toEqual(first.descriptors);
  }),
);
