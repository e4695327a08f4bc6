// When mapping ahead pays. For each backing: the time of a guest that writes to (or reads) every page of fresh memory,
// without pre-fault and after it, and the pre-fault itself. All of it is kernel and guest, so there is no C beside it:
// the ratio is (pre-fault + touch after it) / touch without, in turn.
import { timed, timedAsync } from './harness/clock.mjs';
import { MiB, openVm, startFlat } from './harness/memory.mjs';
import { median, spreadOf } from './harness/statistics.mjs';

const CODE = 0x1000;
const RANGE = 0x1000_0000;
const SIZE = 64 * MiB;
const word = (value) => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];

/** mov ebx, RANGE; mov ecx, pages; next: (an access to [ebx]); add ebx, 4096; dec ecx; jnz next; hlt */
// prettier-ignore
const touch = (access, size) => Uint8Array.from([
  0xbb, ...word(RANGE), 0xb9, ...word(size / 4096), ...access,
  0x81, 0xc3, ...word(4096), 0x49, 0x75, 0xf7 - access.length, 0xf4,
]);
const WRITE = [0xc6, 0x03, 0x01];
const READ = [0x8a, 0x03];

const PRIVATE = { private: true, attributes: 'private', backing: { kind: 'none' } };
const CASES = [
  ['private', PRIVATE],
  ['private', PRIVATE, { vcpus: 2 }],
  ['private', PRIVATE, { vcpus: 4 }],
  ['private, allocated before', PRIVATE, { allocated: true }],
  ['shared anonymous 4 KiB', { backing: { kind: 'anonymous' } }],
  ['shared anonymous 4 KiB, read', { backing: { kind: 'anonymous' } }, { access: READ }],
  ['shared anonymous 4 KiB, populated by the host', { backing: { kind: 'anonymous' } }, { populated: true }],
  ['shared anonymous, THP', { backing: { kind: 'anonymous' } }, { huge: true }],
  // As many as the lab has.
  ['shared hugetlb 2 MiB', { backing: { kind: 'hugetlb' } }, { size: 16 * MiB }],
  ['shared memfd', { backing: { kind: 'memfd' } }],
  ['shared memfd, populated by the host', { backing: { kind: 'memfd' } }, { populated: true }],
];

export default {
  name: 'prefault-pays',
  what: 'first touch of memory by the guest, with and without pre-fault, by backing',
  async run(bench) {
    const rounds = bench.quick ? 3 : 9;
    for (const [name, options, how = {}] of CASES) {
      const { vcpus: count = 1, access = WRITE, allocated = false, populated = false, huge = false, size = SIZE } = how;
      const { vm, memory, close } = openVm(bench.api, 'sw-protected');
      memory.add({ gpa: 0n, size: 0x10000 });
      memory.write(BigInt(CODE), touch(access, size));
      const vcpus = Array.from({ length: count }, (_, id) => vm.createVcpu(id));
      const range = { gpa: BigInt(RANGE), size };
      /** Fresh memory each time: `work` gets a guest that has touched nothing. */
      const fresh = async (work) => {
        const region = memory.add({ ...range, ...options });
        if (huge) region.mapping.madvise(0, size, 'hugepage');
        if (allocated) memory.allocate(range);
        if (populated) region.mapping.madvise(0, size, 'populate-write');
        startFlat(vcpus[0], BigInt(CODE));
        const result = await work();
        region.remove();
        return result;
      };
      const touched = () =>
        timed(() => {
          const exit = vcpus[0].runSync();
          if (exit.reason !== 'hlt') throw new Error(`an exit that was not expected: ${exit.reason}`);
        });
      const without = [];
      const ahead = [];
      const after = [];
      for (let round = -1; round < rounds; round++) {
        const cold = await fresh(touched);
        const [first, second] = await fresh(async () => [
          await timedAsync(() => memory.prefault({ ...range, vcpus })),
          touched(),
        ]);
        if (round < 0) continue;
        without.push(cold);
        ahead.push(first);
        after.push(second);
        bench.progress(round + 1, rounds, name);
      }
      const ratios = without.map((time, round) => (ahead[round] + after[round]) / time);
      bench.row({
        name: `prefault-pays ${name}${count > 1 ? `, ${count} vCPUs` : ''}, ${size / MiB} MiB`,
        unit: 'ms',
        runs: rounds,
        ratio: median(ratios),
        ours: (median(ahead) + median(after)) / 1e6,
        baseline: median(without) / 1e6,
        spread: spreadOf(ratios),
        note: `pre-fault ${(median(ahead) / 1e6).toFixed(1)}, then the touch ${(median(after) / 1e6).toFixed(1)}`,
      });
      close();
    }
  },
};
