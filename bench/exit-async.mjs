// Exits of the vCPU's own thread, handled in the event loop. C hands each exit from a vCPU thread to an epoll loop in
// its main thread and orders the next run through an eventfd. By futex is reported as well: faster, and the main
// thread can then wait for nothing else.
import { handle, PIO_GUEST } from './harness/exit-guests.mjs';
import { makeGuest } from './harness/guest.mjs';
import { median, quantile, spreadOf } from './harness/statistics.mjs';

export default {
  name: 'exit-async',
  what: 'one exit through run(), and through exits()',
  async run(bench) {
    const eventfd = bench.program('exit-async', ['eventfd']);
    const futex = bench.program('exit-async', ['futex']);
    for (const [name, measure] of [
      ['run()', byRun],
      ['exits()', byExits],
    ]) {
      const guest = makeGuest(bench.api, PIO_GUEST);
      await compare(bench, name, measure(guest.vcpu), (n) => eventfd.call('eventfd', n), '<= 1.5');
      await compare(bench, `${name}, C by futex`, measure(guest.vcpu), (n) => futex.call('futex', n));
      guest.close();
    }
  },
};

/** A row for the time of an exit, and one for its 99th percentile within a round. */
async function compare(bench, name, ours, baseline, target) {
  const tails = { ours: [], baseline: [] };
  const seen = async (side, result) => {
    const [time, p99] = await result;
    tails[side].push(p99);
    return time;
  };
  const { runs } = await bench.compare({
    name: `exit-async ${name}`,
    unit: 'us',
    n: bench.choose({ host: 200, lab: 100 }),
    ...(target === undefined ? {} : { target }),
    ours: (n) => seen('ours', ours(n)),
    baseline: (n) => seen('baseline', baseline(n)),
  });
  // Without the warm-up.
  const [here, there] = [tails.ours.slice(-runs), tails.baseline.slice(-runs)];
  const ratios = here.map((time, round) => time / there[round]);
  bench.row({
    name: `exit-async ${name}, p99`,
    unit: 'us',
    ours: median(here) / 1e3,
    baseline: median(there) / 1e3,
    ratio: median(ratios),
    spread: spreadOf(ratios),
    runs,
  });
}

function byRun(vcpu) {
  return async (n) => {
    const lap = stopwatch(n);
    for (let i = 0; i < n; i++) {
      handle(await vcpu.run());
      lap();
    }
    return lap.result();
  };
}

function byExits(vcpu) {
  return async (n) => {
    const lap = stopwatch(n);
    let i = 0;
    for await (const exit of vcpu.exits()) {
      handle(exit);
      lap();
      if (++i === n) break;
    }
    return lap.result();
  };
}

/** Nanoseconds of all laps, and the 99th percentile of one. */
function stopwatch(n) {
  const times = new Float64Array(n);
  const start = process.hrtime.bigint();
  let last = start;
  let count = 0;
  const lap = () => {
    const now = process.hrtime.bigint();
    times[count++] = Number(now - last);
    last = now;
  };
  lap.result = () => [Number(last - start), quantile(times, 0.99)];
  return lap;
}
