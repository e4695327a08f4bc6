// terminate TASK TIMES: workers that are ended in the middle of a task, and what of them is left.
import assert from 'node:assert/strict';
import { Worker } from 'node:worker_threads';
import { baseline, main, makeGuest, settled, say } from './kit.ts';

/** Whether it ended by the termination and not by an error of its own. */
async function terminated(task: string, afterMs: number): Promise<void> {
  const worker = new Worker(new URL('worker.mjs', import.meta.url), { argv: [task] });
  const failed = new Promise<never>((_, reject) => {
    worker.once('error', reject);
  });
  const begun = new Promise((resolve) => {
    worker.once('message', resolve);
  });
  await Promise.race([begun, failed]);
  await new Promise((later) => {
    setTimeout(later, afterMs);
  });
  // Would never settle if the worker's work did not end.
  assert.equal(await Promise.race([worker.terminate(), failed]), 1);
}

async function rounds(task: string, times: number): Promise<void> {
  // The first has what a worker leaves behind in the process: pools, and descriptors of the platform.
  await terminated(task, 5);
  const before = await baseline();
  for (let i = 0; i < times; i++) await terminated(task, i % 10);
  await settled(before);
  // The process can do the same as before.
  const { kvm, mapping, vcpu } = makeGuest();
  assert.equal(vcpu.runSync().reason, 'io');
  assert.equal((await vcpu.run()).reason, 'io');
  kvm.close();
  mapping.close();
  await settled(before);
  say(`${times} ended`);
}

await main({ rounds: (task, times) => rounds(task, Number(times)) });
