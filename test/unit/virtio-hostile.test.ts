/** A driver may write anything anywhere: at most its device breaks, and nothing but guest memory is reached. */
import { describe, expect, it } from 'vitest';
import { VirtioBlock, VirtioConsole, VirtioRng, VirtioVsock } from '../../lib/devices/index.ts';
import type { BlockBackend, VirtioDevice } from '../../lib/devices/index.ts';
import { Driver, EVENT_INDEX, INDIRECT } from './virtio-driver.ts';

const ROUNDS = Number(process.env['NODE_KVM_FUZZ_ROUNDS'] ?? 300);
const SEED = Number(process.env['NODE_KVM_FUZZ_SEED'] ?? 1);

const backend: BlockBackend = {
  size: 1 << 20,
  readOnly: false,
  read: async (_offset, views) => views.forEach((view) => view.fill(1)),
  write: async () => {},
  flush: async () => {},
  discard: async () => {},
  writeZeroes: async () => {},
  close: async () => {},
};

const devices: Record<string, () => VirtioDevice> = {
  rng: () => new VirtioRng({ source: (view) => view.fill(1) }),
  block: () => new VirtioBlock(backend),
  console: () => new VirtioConsole({ ports: ['a', 'b'] }),
  vsock: () => {
    const device = new VirtioVsock();
    for (const port of [0, 1, 2]) device.listen(port, (socket) => socket.on('error', () => {}).resume());
    return device;
  },
};

function random(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state ^ (state >>> 15), state | 1) + 0x6d2b_79f5) | 0;
    return (state >>> 0) % limit;
  };
}

/** Values that sit on an edge of something, and small ones. */
function word(next: (limit: number) => number): number {
  const edges = [
    0, 1, 2, 3, 4, 15, 16, 17, 44, 0xff, 0xffff, 0x1000, 0x8000, 0xfffff, 0x10_0000, 0x7fff_ffff, 0xffff_ffff,
    0x8000_0000,
  ];
  return next(3) === 0 ? next(0x1_0000_0000) : edges[next(edges.length)]!;
}

describe.each(Object.keys(devices))('a hostile driver of virtio-%s', (name) => {
  it('breaks nothing but the device', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const seed = SEED * 100_003 + round;
      const next = random(seed);
      const device = devices[name]!();
      const driver = new Driver(device);
      const features = [0n, INDIRECT, EVENT_INDEX, INDIRECT | EVENT_INDEX | (2n & device.features)][next(4)]!;
      const canary = driver.ram.bytes.buffer.byteLength;
      try {
        driver.start(features, 8);
        for (let step = 0; step < 30; step++) {
          const queue = driver.queues[next(driver.queues.length)]!;
          const index = driver.queues.indexOf(queue);
          switch (next(5)) {
            case 0: // a request that is nearly right
              queue.add(
                ...Array.from({ length: 1 + next(4) }, (_, at) => ({
                  gpa: next(4) === 0 ? word(next) : 0x10000 + next(0x8000),
                  length: next(4) === 0 ? word(next) : next(600),
                  write: at > next(3),
                })),
              );
              break;
            case 1: // anything in the rings
              driver.ram.view.setUint16(queue.table + next(0x200), word(next) & 0xffff, true);
              break;
            case 2: // anything in what requests point to
              for (let count = next(16); count > 0; count--)
                driver.ram.view.setUint32(0x10000 + 4 * next(64), word(next), true);
              break;
            case 3:
              driver.write(4 * next(80), word(next));
              break;
            case 4:
              queue.offer(next(10));
              break;
          }
          driver.notify(index);
          if (next(8) === 0) await new Promise((resolve) => setImmediate(resolve));
        }
        driver.write(0x70, 0);
        await new Promise((resolve) => setImmediate(resolve));
      } catch (error) {
        throw new Error(`seed ${seed}: ${String(error)}`, { cause: error });
      }
      expect(driver.ram.bytes.buffer.byteLength).toBe(canary);
      expect(
        driver.broken === undefined || driver.broken.name === 'VirtioError',
        `seed ${seed}: ${String(driver.broken)}`,
      ).toBe(true);
    }
  });
});
