// Copying between guest memory and a buffer of the caller, beside memcpy: from one place to the next through 64 MiB, as a
// device does that reads what a guest has just made, and in the same place again, where the processor's caches have it.
import { timed } from './harness/clock.mjs';
import { MiB, openVm } from './harness/memory.mjs';

const MEMORY = 64 * MiB;
const SIZES = [
  ['4 KiB', 4096],
  ['64 KiB', 64 * 1024],
  ['1 MiB', MiB],
  ['64 MiB', MEMORY],
];

export default {
  name: 'memory-copy',
  what: 'memory.readInto, write and read of 4 KiB to 64 MiB, beside memcpy',
  async run(bench) {
    bench.pin();
    const { memory, close } = openVm(bench.api, 'default');
    memory.add({ gpa: 0n, size: MEMORY });
    memory.fill(0n, MEMORY, 1);
    for (const [text, size] of SIZES) {
      const program = bench.program('memory-copy', [String(size)]);
      const buffer = new Uint8Array(size).fill(1);
      const places = Array.from({ length: MEMORY / size }, (_, index) => BigInt(index * size));
      const through = (copy) => (n) =>
        timed(() => {
          for (let i = 0; i < n; i++) copy(places[i % places.length]);
        });
      const again = (copy) => (n) =>
        timed(() => {
          for (let i = 0; i < n; i++) copy(0n);
        });
      const ways = [
        ['readInto', (gpa) => memory.readInto(gpa, buffer)],
        ['write', (gpa) => memory.write(gpa, buffer)],
        // Beside a memcpy into a buffer that is there: the difference is the new array, and its end.
        ['read', (gpa) => memory.read(gpa, size)],
      ];
      for (const [way, copy] of ways) {
        const target = way === 'read' ? undefined : '>= 0.95';
        const common = { unit: 'us', speed: true, roundMs: bench.choose({ host: 8, lab: 40 }) };
        await bench.compare({
          ...common,
          name: `memory-copy ${way} ${text}`,
          target: { host: target, lab: undefined },
          ours: through(copy),
          baseline: async (n) => (await program.call(way === 'write' ? 'walk-write' : 'walk', n))[0],
        });
        if (size > MiB) continue;
        await bench.compare({
          ...common,
          name: `memory-copy ${way} ${text}, in cache`,
          ours: again(copy),
          baseline: async (n) => (await program.call(way === 'write' ? 'hot-write' : 'hot', n))[0],
        });
      }
      await program.close();
    }
    close();
  },
};
