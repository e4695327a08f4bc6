/** One seed of the stateful fuzzer, and what is left of its steps when it fails: the fewest that fail alike. */
import { Kvm } from '../../lib/index.ts';
import type { VmTypeName } from '../../lib/index.ts';
import type { Reporter } from './argument-run.ts';
import { holdings, leakedSince } from './oracle.ts';
import { closeWorld, compare, generateSteps, openWorld, takeStep } from './state-steps.ts';
import type { Step } from './state-steps.ts';

const SHRINK_MS = 30_000;

/** What went wrong, and after which step. */
class StateFailure extends Error {
  readonly step: number;

  constructor(step: number, cause: unknown) {
    super(cause instanceof Error ? (cause.stack ?? cause.message) : String(cause), { cause });
    this.step = step;
  }
}

/** Plays a seed on a new VM. Throws with the shortest list of steps that was found to fail. */
export async function stateSeed(seed: number, count: number, type: VmTypeName, reporter: Reporter): Promise<void> {
  const steps = generateSteps(seed, count);
  const failure = await fails(steps, seed, type, reporter);
  if (failure === undefined) return;
  const few = await shrink(
    steps.slice(0, failure.step + 1),
    async (fewer) => (await fails(fewer, seed, type, reporter)) !== undefined,
  );
  const last = (await fails(few, seed, type, reporter)) ?? failure;
  throw new Error(
    `seed ${seed} on a VM of type ${type}, ${few.length} of ${steps.length} steps are enough:\n` +
      `${few.map((step) => `  ${step.join(' ')}`).join('\n')}\n${last.message}`,
  );
}

async function fails(
  steps: readonly Step[],
  seed: number,
  type: VmTypeName,
  reporter: Reporter,
): Promise<StateFailure | undefined> {
  const before = holdings();
  const kvm = Kvm.open();
  let at = 0;
  try {
    const world = openWorld(kvm, type);
    for (const step of steps) {
      reporter.at(seed, at, step.join(' '));
      await takeStep(world, step);
      compare(world);
      at++;
    }
    reporter.at(seed, at, 'closing everything');
    await closeWorld(world, seed);
    kvm.close();
    const leaked = await leakedSince(before, reporter.gc);
    if (leaked !== undefined) throw new Error(`left ${leaked}`);
    return undefined;
  } catch (error) {
    kvm.close();
    reporter.gc();
    await new Promise((turn) => setTimeout(turn, 5));
    return new StateFailure(Math.min(at, steps.length - 1), error);
  }
}

/** Leaves out parts, large ones first, as long as the rest still fails. */
async function shrink(
  steps: readonly Step[],
  stillFails: (fewer: readonly Step[]) => Promise<boolean>,
): Promise<readonly Step[]> {
  const until = Date.now() + SHRINK_MS;
  let now = steps;
  for (let part = Math.ceil(now.length / 2); part >= 1; part = part === 1 ? 0 : Math.ceil(part / 2)) {
    for (let from = 0; from < now.length && Date.now() < until;) {
      const fewer = [...now.slice(0, from), ...now.slice(from + part)];
      if (fewer.length > 0 && (await stillFails(fewer))) now = fewer;
      else from += part;
    }
  }
  return now;
}
