/** Points 3.1 to 3.17 as the kernel's own test does them: the test itself handles each hypercall. */
import { describe } from 'vitest';
import { RawArea } from './guest-area.ts';
import type { AreaOptions } from './guest-area.ts';
import { expectFound, flow } from './guest-flow.ts';
import { CHUNK_SIZE, explicitConversion, holePunching } from './guest-scenario.ts';
import type { Scene } from './guest-scenario.ts';
import { once, PAGE, pointTest, TWO_MIB } from './support.ts';

const EXPLICIT = ['3.1', '3.3', '3.4', '3.5', '3.6', '3.7', '3.8', '3.9', '3.10', '3.11', '3.12', '3.17'];

interface SetUp extends Omit<AreaOptions, 'size'> {
  readonly name: string;
  readonly vcpus: number;
  /** Chunks begin on 2 MiB borders; otherwise one behind the other, and so inside huge pages. */
  readonly aligned?: boolean;
}

const SET_UPS: readonly SetUp[] = [
  { name: '1 vCPU, 1 slot, anonymous memory', vcpus: 1 },
  { name: '4 vCPUs, 1 slot, anonymous memory', vcpus: 4 },
  {
    name: '4 vCPUs, 3 slots of one guest_memfd from an odd page on, shared memory',
    vcpus: 4,
    slots: 3,
    offset: PAGE,
    backing: 'shared',
  },
  { name: '4 vCPUs, 3 slots with a guest_memfd each, memfd', vcpus: 4, slots: 3, apart: true, backing: 'memfd' },
  { name: '2 vCPUs, 2 slots, huge pages', vcpus: 2, slots: 2, aligned: true, backing: 'hugetlb' },
  { name: '1 vCPU, 1 slot, memfd of huge pages', vcpus: 1, aligned: true, backing: 'hugetlb-memfd' },
];

for (const { name, vcpus, aligned = false, ...area } of SET_UPS) {
  const spacing = aligned ? Math.ceil(CHUNK_SIZE / TWO_MIB) * TWO_MIB : CHUNK_SIZE;
  const run = (play: (scene: Scene) => Promise<void>) =>
    once(() => flow({ vcpus, spacing, area: (vm) => new RawArea(vm, { size: vcpus * spacing, ...area }), play }));

  describe(`conversions by hypercall: ${name}`, () => {
    for (const fallocate of [false, true]) {
      // The kernel's test leaves points 7 to 10 out for 2 MiB; once, all 512 pages are converted one by one.
      const everyPage = vcpus === 1 && area.backing === undefined;
      const found = run((scene) => explicitConversion(scene, { fallocate, everyPage, sharedSide: 'kept' }));
      for (const id of fallocate ? ['3.2', ...EXPLICIT] : EXPLICIT) {
        const variant = `${name}, ${fallocate ? 'with' : 'without'} fallocate`;
        pointTest(id, { needs: ['private-memory'], variant }, async () => expectFound(await found(), id));
      }
    }
    for (const precise of [false, true]) {
      const found = run((scene) => holePunching(scene, precise));
      for (const id of ['3.13', '3.14', '3.17']) {
        const variant = `${name}, ${precise ? 'the target alone' : 'the whole chunk'} present`;
        pointTest(id, { needs: ['private-memory'], variant }, async () => expectFound(await found(), id));
      }
    }
  });
}
