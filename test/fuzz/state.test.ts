/**
 * Slots, conversions, punches, guests that read and write, kicks and closes in random order, held against a model after
 * each step. A seed that fails is played again with fewer steps, as long as it still fails, and these are printed.
 *
 * NODE_KVM_FUZZ_SEED=n plays that seed alone; NODE_KVM_FUZZ_SECONDS (default 20) sets for how long, NODE_KVM_FUZZ_FIRST
 * where seeds begin.
 */
import { afterAll, expect } from 'vitest';
import { inLab, kvmTest } from '../kvm/support.ts';
import { buildProgram, runProgram } from './program.ts';
import type { Program } from './program.ts';

const STEPS_PER_SEED = 60;
const one = process.env['NODE_KVM_FUZZ_SEED'];
const seconds = Number(process.env['NODE_KVM_FUZZ_SECONDS'] ?? 20);
const first = Number(process.env['NODE_KVM_FUZZ_FIRST'] ?? 1);

let program: Program | undefined;
afterAll(() => program?.remove());

async function play(): Promise<void> {
  program = await buildProgram();
  const { output, failure } = await runProgram(program, {
    mode: 'state',
    calls: STEPS_PER_SEED,
    ...(one === undefined ? { first, seeds: 1_000_000, seconds } : { first: Number(one), seeds: 1 }),
  });
  if (failure !== undefined)
    throw new Error(`${failure}\nAgain: NODE_KVM_FUZZ_SEED=<seed> npx vitest run --project fuzz`);
  const { seeds, calls } = JSON.parse(output) as { seeds: number; calls: number };
  console.log(`${seeds} seeds from ${one ?? first} on, ${calls} steps`);
  expect(seeds).toBeGreaterThan(0);
}

const name = one === undefined ? `${seconds} s of random steps` : `the random steps of seed ${one}`;
kvmTest(name, { timeout: (seconds + 600) * 1000, needs: inLab ? ['private-memory'] : [] }, play);
