/**
 * Random and near-valid arguments for every function, method and accessor of the addon and of the package: no crash, no
 * hang, no error that does not explain itself, and nothing left open.
 *
 * NODE_KVM_FUZZ_SEED=n plays that seed alone; NODE_KVM_FUZZ_CALLS sets how many calls there are over all seeds, and
 * NODE_KVM_FUZZ_FIRST where seeds begin. With NODE_KVM_FUZZ_ALL it goes on after a failure, up to a hundred seeds.
 */
import { afterAll, expect } from 'vitest';
import { inLab, kvmTest } from '../kvm/support.ts';
import { buildProgram, runProgram } from './program.ts';
import type { Program } from './program.ts';

const CALLS_PER_SEED = 100;
const SEEDS_PER_CHILD = 100;
const one = process.env['NODE_KVM_FUZZ_SEED'];
const total = Number(process.env['NODE_KVM_FUZZ_CALLS'] ?? (inLab ? 10_000 : 100_000));
const all = process.env['NODE_KVM_FUZZ_ALL'] !== undefined;
const first = Number(process.env['NODE_KVM_FUZZ_FIRST'] ?? 1);

let program: Program | undefined;
afterAll(() => program?.remove());

kvmTest(
  `${one === undefined ? `${total} calls` : `seed ${one}`} with random arguments`,
  { timeout: 3_600_000 },
  async () => {
    program = await buildProgram();
    const seeds = one === undefined ? Math.ceil(total / CALLS_PER_SEED) : 1;
    const begin = one === undefined ? first : Number(one);
    let calls = 0;
    let reached = 0;
    for (let done = 0; done < seeds; done += SEEDS_PER_CHILD) {
      const { output, failure } = await runProgram(program, {
        mode: 'arguments',
        first: begin + done,
        seeds: Math.min(SEEDS_PER_CHILD, seeds - done),
        calls: CALLS_PER_SEED,
        all,
      });
      if (failure !== undefined)
        throw new Error(`${failure}\nAgain: NODE_KVM_FUZZ_SEED=<seed> npx vitest run --project fuzz`);
      const result = JSON.parse(output) as { calls: number; reached: number };
      calls += result.calls;
      reached += result.reached;
    }
    console.log(`${calls} calls from seed ${begin} on, ${reached} of them went through`);
    // A fuzzer whose calls all end in the check of their arguments shows little.
    if (one === undefined) expect(reached).toBeGreaterThan(calls / 10);
  },
);
