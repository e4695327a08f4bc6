// What the hundredth, the thousandth and the ten thousandth cost beside the first few: vCPUs, memslots, VMs, and sparse
// guest_memfd from 1 GiB to 1 TiB. Making them is timed, taking them away is not.
//
// The kernel itself need not be linear, so for each size the cost of one is set beside C's at the same size. `growth` in
// the note is the plain figure: the cost of one here, at this size, over the cost of one at the smallest.
import { median } from './harness/statistics.mjs';
import { timed } from './harness/clock.mjs';

const SIZES = {
  vcpus: [8, 32, 64],
  memslots: [100, 1000, 10_000],
  vms: [5, 25, 100],
  'guest-memfd': [1, 32, 1024],
};

function makers({ Kvm, HostMapping }, type) {
  const kvm = Kvm.open();
  /** The time for `work(vm)` in a VM of its own. */
  const inVm = (of, work) => {
    const vm = kvm.createVm(of);
    try {
      return timed(() => work(vm));
    } finally {
      vm.close();
    }
  };
  return {
    vcpus: (n) =>
      inVm('default', (vm) => {
        for (let id = 0; id < n; id++) vm.createVcpu(id);
      }),
    memslots(n) {
      const mapping = HostMapping.anonymous(n * 4096);
      try {
        return inVm('default', (vm) => {
          for (let slot = 0; slot < n; slot++) {
            vm.setUserMemoryRegion2({
              slot,
              gpa: BigInt(slot * 4096),
              size: 4096,
              mapping,
              mappingOffset: slot * 4096,
            });
          }
        });
      } finally {
        mapping.close();
      }
    },
    vms(n) {
      const made = [];
      try {
        return timed(() => {
          for (let i = 0; i < n; i++) made.push(kvm.createVm('default'));
        });
      } finally {
        for (const vm of made) vm.close();
      }
    },
    'guest-memfd': (n) =>
      inVm(type, (vm) => {
        const size = n * 2 ** 30;
        const guestMemfd = vm.createGuestMemfd(size, { flags: type === 'default' ? 3n : 0n });
        vm.setUserMemoryRegion2({ slot: 0, gpa: 0n, size, guestMemfd });
      }),
    close: () => kvm.close(),
  };
}

export default {
  name: 'scale',
  what: '1 to 64 vCPUs, 10,000 memslots, 100 VMs, 1 TiB of sparse guest_memfd: the cost of one',
  async run(bench) {
    const program = bench.program('scale');
    const type = bench.choose({ host: 'default', lab: 'sw-protected' });
    const make = makers(bench.api, type);
    for (const [what, sizes] of Object.entries(SIZES)) {
      const times = sizes.map(() => ({ ours: [], theirs: [] }));
      const rounds = bench.quick ? 5 : bench.choose({ host: 21, lab: 9 });
      // All sizes in each round: what is compared is then minutes of the same machine, and not the machine's mood.
      for (let round = -2; round < rounds; round++) {
        for (const [index, size] of sizes.entries()) {
          const ours = make[what](size);
          const [theirs] = await program.call(what, size, type === 'default' ? 0 : 1);
          if (round < 0) continue;
          times[index].ours.push(ours);
          times[index].theirs.push(theirs);
        }
        bench.progress(round + 2, rounds + 2, `scale ${what}`);
      }
      // Of a guest_memfd the unit is a GiB.
      const cost = (index, side) => median(times[index][side]) / sizes[index] / 1000;
      for (const [index, size] of sizes.entries()) {
        const ratios = times[index].ours.map((time, round) => time / times[index].theirs[round]);
        const first = times[0].ours.map((time, round) => time / times[0].theirs[round]);
        const growth = cost(index, 'ours') / cost(0, 'ours');
        const kernel = cost(index, 'theirs') / cost(0, 'theirs');
        bench.row({
          name: `scale ${what} ${size}${what === 'guest-memfd' ? ' GiB' : ''}`,
          unit: 'us',
          runs: rounds,
          ours: cost(index, 'ours'),
          baseline: cost(index, 'theirs'),
          ratio: median(ratios),
          ...(index === 0 ? {} : { target: '<= 1.2', value: Math.min(growth, median(ratios) / median(first)) }),
          note: `growth ${growth.toFixed(2)}, in C ${kernel.toFixed(2)}`,
        });
      }
    }
    make.close();
  },
};
