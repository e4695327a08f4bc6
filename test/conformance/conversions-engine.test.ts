/** Points 3.1 to 3.17 through the conversion engine: the same scenarios, with GuestMemory doing what the test did. */
import { describe } from 'vitest';
import { EngineArea } from './guest-engine.ts';
import type { EngineOptions } from './guest-engine.ts';
import { expectFound, flow } from './guest-flow.ts';
import { CHUNK_SIZE, explicitConversion, holePunching } from './guest-scenario.ts';
import type { Scene } from './guest-scenario.ts';
import { once, pointTest } from './support.ts';

interface SetUp extends Omit<EngineOptions, 'size'> {
  readonly vcpus: number;
  readonly fallocate: boolean;
}

const SET_UPS: readonly SetUp[] = [
  { vcpus: 1, asks: 'hypercall', discard: 'none', fallocate: false },
  { vcpus: 4, slots: 3, asks: 'hypercall', discard: 'private', fallocate: true },
  {
    vcpus: 4,
    slots: 3,
    asks: 'hypercall, off the main thread',
    discard: 'both',
    fallocate: false,
    backing: { kind: 'memfd' },
  },
  { vcpus: 1, asks: 'program', discard: 'both', fallocate: false },
  {
    vcpus: 2,
    slots: 2,
    asks: 'program, off the main thread',
    discard: 'private',
    fallocate: true,
    backing: { kind: 'shared' },
  },
];

for (const { vcpus, fallocate, ...area } of SET_UPS) {
  const variant = [
    `engine, asked by ${area.asks}`,
    `${vcpus} vCPU${vcpus === 1 ? '' : 's'}`,
    `${area.slots ?? 1} slot${area.slots === undefined ? '' : 's'}`,
    `${area.backing?.kind ?? 'anonymous'} memory`,
    `discarding ${area.discard}`,
  ].join(', ');
  const run = (play: (scene: Scene) => Promise<void>) =>
    once(() => flow({ vcpus, area: (vm) => new EngineArea(vm, { size: vcpus * CHUNK_SIZE, ...area }), play }));
  const sharedSide = area.discard === 'both' || area.discard === 'shared' ? 'dropped' : 'kept';

  describe(`3 conversions: ${variant}`, () => {
    const converted = run((scene) => explicitConversion(scene, { fallocate, everyPage: vcpus === 1, sharedSide }));
    const points = [
      ...(area.asks.startsWith('hypercall') ? ['3.1', '3.4'] : []),
      ...(fallocate ? ['3.2'] : []),
      '3.3',
      '3.5',
      '3.6',
      '3.7',
      '3.8',
      '3.9',
      '3.10',
      '3.11',
      '3.12',
      '3.17',
    ];
    for (const id of points) {
      pointTest(id, { needs: ['private-memory'], variant }, async () => expectFound(await converted(), id));
    }

    const punched = run((scene) => holePunching(scene, fallocate));
    for (const id of ['3.13', '3.14']) {
      pointTest(id, { needs: ['private-memory'], variant }, async () => expectFound(await punched(), id));
    }
  });
}
