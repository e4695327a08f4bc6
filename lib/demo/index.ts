/** The main job: a guest with a secret, and a host that wants to know it. */
import { mergeRanges, type MemoryRange } from './picture.ts';
import { PAGE } from './plan.ts';
import { Stage, type DemoReport, type DemoStep } from './report.ts';
import { Scene } from './scene.ts';
import { convertByAccess, convertByHypercall, finish, keepSecret, prefault, punch, setUp } from './steps.ts';

export { demoInLab, hostUsable } from './in-lab.ts';
export { exitCodeOf, type DemoReport, type DemoStep, type StepStatus } from './report.ts';

export interface RunDemoOptions {
  /** Where this runs, for the report. Default `'host'`. */
  readonly where?: 'host' | 'lab';
  /** Called after each step. */
  readonly onStep?: (step: DemoStep) => void;
}

/**
 * Runs the demo on this machine's /dev/kvm.
 *
 * @throws KvmSystemError or KvmUnsupportedError where there is no usable KVM; what happens later is in the report.
 */
export async function runDemo({ where = 'host', onStep = () => {} }: RunDemoOptions = {}): Promise<DemoReport> {
  using scene = new Scene();
  const stage = new Stage(onStep);
  if (await setUp(scene, stage)) {
    await keepSecret(scene, stage);
    await convertByHypercall(scene, stage);
    await convertByAccess(scene, stage);
    await punch(scene, stage);
    await prefault(scene, stage);
    await finish(scene, stage);
  }
  return { tier: scene.tier, where, fallback: scene.fallback, steps: stage.steps, memory: memoryOf(scene) };
}

/** Page by page: mincore for what the host can see, and what the steps did for what it cannot. */
function memoryOf(scene: Scene): MemoryRange[] {
  const ranges: MemoryRange[] = [];
  for (const { gpa, size, region, state } of scene.memory.map()) {
    for (let at = gpa; at < gpa + BigInt(size); at += BigInt(PAGE)) {
      const offset = Number(at - region.gpa);
      const populated = state === 'private' ? scene.touched.has(at) : (region.mapping?.resident(offset, PAGE) ?? 0) > 0;
      ranges.push({ gpa: at, size: PAGE, state, populated });
    }
  }
  return mergeRanges(ranges);
}
