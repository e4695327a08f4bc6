// KVM_PRE_FAULT_MEMORY of 1 GiB of fresh memory, shared by 1, 2 and 4 vCPUs, each on its own thread.
import { timedAsync } from './harness/clock.mjs';
import { compareWith, GiB, openVm } from './harness/memory.mjs';

function prefaults(api, side, vcpuCount) {
  const { memory, vm, close } = openVm(api, 'sw-protected');
  memory.add({ gpa: 0n, size: GiB, private: true, attributes: side });
  const vcpus = Array.from({ length: vcpuCount }, (_, id) => vm.createVcpu(id));
  return {
    close,
    async run(n) {
      let total = 0;
      for (let i = 0; i < n; i++) {
        total += await timedAsync(() => memory.prefault({ gpa: 0n, size: GiB, vcpus }));
        memory.discard({ gpa: 0n, size: GiB, side });
      }
      return total;
    },
  };
}

export default {
  name: 'prefault',
  what: 'KVM_PRE_FAULT_MEMORY of 1 GiB, private and shared, by 1, 2 and 4 vCPUs',
  async run(bench) {
    for (const side of ['private', 'shared']) {
      for (const vcpus of [1, 2, 4]) {
        await compareWith(bench, ['prefault', side, GiB, vcpus], {
          name: `prefault 1 GiB ${side}, ${vcpus} vCPU`,
          unit: 'ms',
          target: '<= 1.05',
          n: 1,
          rounds: bench.quick ? 3 : 11,
          open: () => prefaults(bench.api, side, vcpus),
        });
      }
    }
  },
};
