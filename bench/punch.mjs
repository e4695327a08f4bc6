// Giving 1 GiB back, all of which the guest has mapped: a hole in the guest_memfd, or MADV_DONTNEED on the shared side.
import { timed } from './harness/clock.mjs';
import { compareWith, GiB, openVm } from './harness/memory.mjs';

function convertible(api, side, vcpuCount) {
  const { memory, vm, close } = openVm(api, 'sw-protected');
  const region = memory.add({ gpa: 0n, size: GiB, private: true, attributes: side });
  const vcpus = Array.from({ length: vcpuCount }, (_, id) => vm.createVcpu(id));
  return {
    close,
    async run(n) {
      let total = 0;
      for (let i = 0; i < n; i++) {
        // Pages of its own, where a read fault would map the one page of zeros.
        if (side === 'shared') region.mapping.madvise(0, GiB, 'populate-write');
        await memory.prefault({ gpa: 0n, size: GiB, vcpus });
        total += timed(() => memory.discard({ gpa: 0n, size: GiB, side }));
      }
      return total;
    },
  };
}

function mapped(api) {
  const { memory, close } = openVm(api, 'default');
  memory.add({ gpa: 0n, size: GiB, backing: { kind: 'guest-memfd' } });
  return {
    close,
    run(n) {
      let total = 0;
      for (let i = 0; i < n; i++) {
        memory.allocate({ gpa: 0n, size: GiB });
        total += timed(() => memory.discard({ gpa: 0n, size: GiB, side: 'private' }));
      }
      return total;
    },
  };
}

export default {
  name: 'punch',
  what: 'giving 1 GiB back to the host, private and shared',
  async run(bench) {
    const common = { unit: 'ms', n: 1, target: '<= 1.05', rounds: bench.quick ? 3 : 15 };
    if (bench.where === 'host') {
      await compareWith(bench, ['punch', 'mapped', GiB, 0], {
        ...common,
        name: 'punch 1 GiB mapped guest_memfd',
        open: () => mapped(bench.api),
      });
    }
    for (const side of ['private', 'shared']) {
      for (const vcpus of [1, 2, 4]) {
        await compareWith(bench, ['punch', side, GiB, vcpus], {
          ...common,
          name: `punch 1 GiB ${side}, mapped by ${vcpus} vCPU`,
          open: () => convertible(bench.api, side, vcpus),
        });
      }
    }
  },
};
