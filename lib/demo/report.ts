/** What the demo says in the end; the output of `node-kvm demo --json`. */
import type { TierRefusal } from '../tier/tiers.ts';
import type { MemoryRange } from './picture.ts';

export type StepStatus = 'done' | 'impossible' | 'failed';

export interface DemoStep {
  /** Stable, for scripts. */
  readonly id: string;
  readonly title: string;
  readonly status: StepStatus;
  /** What was done, with the figures; or what went wrong. */
  readonly detail: string;
  /** For an impossible step: why this host or VM cannot do it. */
  readonly why?: string;
}

export interface DemoReport {
  readonly tier: string;
  readonly where: 'host' | 'lab';
  /** Why each stronger tier was not taken. */
  readonly fallback: readonly TierRefusal[];
  readonly steps: readonly DemoStep[];
  /** Guest memory at the end, sorted, neighbours that are alike joined. */
  readonly memory: readonly MemoryRange[];
}

/** Thrown by a step that this host or VM cannot do. */
export class Impossible extends Error {
  /** What was found out all the same. */
  readonly detail: string;

  constructor(why: string, detail = '') {
    super(why);
    this.detail = detail;
  }
}

/** Runs steps in order and files what came of each. */
export class Stage {
  readonly steps: DemoStep[] = [];
  readonly #onStep: (step: DemoStep) => void;

  constructor(onStep: (step: DemoStep) => void = () => {}) {
    this.#onStep = onStep;
  }

  /** `action` gives the detail. False where the step was not done. */
  async step(id: string, title: string, action: () => string | Promise<string>): Promise<boolean> {
    try {
      this.#file({ id, title, status: 'done', detail: await action() });
      return true;
    } catch (error) {
      if (error instanceof Impossible)
        this.#file({ id, title, status: 'impossible', detail: error.detail, why: error.message });
      else this.#file({ id, title, status: 'failed', detail: error instanceof Error ? error.message : String(error) });
      return false;
    }
  }

  #file(step: DemoStep): void {
    this.steps.push(step);
    this.#onStep(step);
  }
}

/** 0 where every possible step was done, 1 where one failed. */
export function exitCodeOf({ steps }: Pick<DemoReport, 'steps'>): 0 | 1 {
  return steps.some(({ status }) => status === 'failed') ? 1 : 0;
}
