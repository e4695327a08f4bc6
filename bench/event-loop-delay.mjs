// What running vCPUs do to the event loop: two spin, a third makes 10,000 exits a second, each handled in JavaScript.
//
// Where there are fewer CPUs than threads at work, part of the delay is the scheduler's. So there is a second row, in
// which the same three vCPUs run in a C program beside, and this loop has nothing to do at all.
import { availableParallelism } from 'node:os';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { PACED_GUEST } from './harness/exit-guests.mjs';
import { makeGuest, startAt } from './harness/guest.mjs';
import { median, spreadOf } from './harness/statistics.mjs';

const RATE = 10_000;
const SPIN = [0xeb, 0xfe]; // jmp $
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export default {
  name: 'event-loop-delay',
  what: 'p99 of the delay of the event loop while two vCPUs spin and a third makes 10,000 exits/s',
  async run(bench) {
    const ms = bench.quick ? 500 : 2000;
    const pairs = bench.quick ? 3 : 9;
    const program = bench.program('event-loop-delay');
    const seen = { idle: [], ours: [], beside: [] };
    const exits = { ours: 0, beside: 0 };
    for (let pair = 0; pair < pairs; pair++) {
      seen.idle.push(await delay(() => sleep(ms)));
      seen.ours.push(await delay(async () => (exits.ours += await runVcpus(bench.api, ms))));
      seen.beside.push(await delay(async () => (exits.beside += (await program.call('run', ms, RATE))[1])));
      bench.progress(pair + 1, pairs, 'event-loop-delay');
    }
    const perSecond = (count) => `${Math.round((count * 1000) / (ms * pairs))} exits/s`;
    const row = (name, baseline, target, note) => {
      const over = seen.ours.map((value, at) => value - baseline[at]);
      bench.row({
        name,
        unit: 'ms',
        ours: median(seen.ours),
        baseline: median(baseline),
        ratio: median(seen.ours.map((value, at) => value / baseline[at])),
        spread: spreadOf(seen.ours.map((value, at) => value / baseline[at])),
        runs: pairs,
        value: median(over),
        target,
        note: `${median(over).toFixed(2)} ms over ${note}`,
      });
    };
    row(
      'event-loop-delay',
      seen.idle,
      '<= 2 ms over idle',
      `idle; ${perSecond(exits.ours)}, ${availableParallelism()} CPUs`,
    );
    row(
      'event-loop-delay, vCPUs in C',
      seen.beside,
      undefined,
      `an idle loop beside the same vCPUs in C; ${perSecond(exits.beside)}`,
    );
  },
};

/** The 99th percentile of the delay while `work` lasts, in milliseconds. */
async function delay(work) {
  await sleep(100);
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  await work();
  histogram.disable();
  return histogram.percentile(99) / 1e6;
}

/** Runs the three for so long; how many exits the third made. */
async function runVcpus(api, ms) {
  const guest = makeGuest(api, PACED_GUEST, { vcpus: 3 });
  guest.ram.write(0x2000, Uint8Array.from(SPIN));
  const [paced, ...spinning] = guest.vcpus;
  const ends = spinning.map((vcpu) => startAt(vcpu, 0x2000n).run());
  const over = new AbortController();
  setTimeout(() => over.abort(), ms);
  const count = await pace(paced, over.signal);
  for (const vcpu of spinning) vcpu.kick();
  await Promise.all(ends);
  guest.close();
  return count;
}

/** Answers each exit with how long the guest is to count, so that the rate stays. */
async function pace(vcpu, signal) {
  const start = performance.now();
  let loops = 1;
  let count = 0;
  while (!signal.aborted) {
    const exit = await vcpu.run();
    count++;
    const ahead = start + (count * 1000) / RATE - performance.now();
    const step = (loops >> 4) + 1;
    if (ahead > 0) loops = Math.min(0xffff, loops + step);
    else loops = Math.max(1, loops - step);
    exit.data[0] = loops & 0xff;
    exit.data[1] = loops >> 8;
  }
  return count;
}
