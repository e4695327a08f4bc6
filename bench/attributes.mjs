// KVM_SET_MEMORY_ATTRIBUTES: a range to private and back, by the ioctl's method and by the conversion engine.
import { timed } from './harness/clock.mjs';
import { compareWith, GiB, MiB, openVm } from './harness/memory.mjs';

const PRIVATE = 8n;
// Of 4 KiB the kernel's part is next to nothing, so the row says what the call costs.
const SIZES = [
  ['4 KiB', 4096],
  ['2 MiB', 2 * MiB, '<= 1.05'],
  ['1 GiB', GiB, '<= 1.05'],
];

function flips(api, size) {
  const { vm, memory, close } = openVm(api, 'sw-protected');
  memory.add({ gpa: 0n, size, private: true });
  let attributes = 0n;
  return {
    close,
    run: (n) =>
      timed(() => {
        for (let i = 0; i < n; i++) {
          attributes ^= PRIVATE;
          vm.setMemoryAttributes({ address: 0n, size, attributes });
        }
      }),
  };
}

function conversions(api, size) {
  const { memory, close } = openVm(api, 'sw-protected', { discard: 'none' });
  memory.add({ gpa: 0n, size, private: true });
  let to = 'shared';
  return {
    close,
    run: (n) =>
      timed(() => {
        for (let i = 0; i < n; i++) {
          to = to === 'shared' ? 'private' : 'shared';
          memory.convert({ gpa: 0n, size, to });
        }
      }),
  };
}

export default {
  name: 'attributes',
  what: 'flips of 4 KiB, 2 MiB and 1 GiB between private and shared',
  async run(bench) {
    bench.pin();
    for (const [text, size, target] of SIZES) {
      const few = size === GiB ? { n: 2, rounds: bench.quick ? 3 : 9 } : { warm: 6000 };
      const common = { unit: 'us', ...few };
      await compareWith(bench, ['attributes', size], {
        ...common,
        name: `attributes ${text}`,
        target,
        open: () => flips(bench.api, size),
      });
      await compareWith(bench, ['attributes', size], {
        ...common,
        name: `attributes ${text}, memory.convert`,
        open: () => conversions(bench.api, size),
      });
    }
  },
};
