// What a benchmark gets to work with: programs to compare with, rounds that alternate, rows of results.
import { execFileSync } from 'node:child_process';
import { availableParallelism, constants, setPriority } from 'node:os';
import { join } from 'node:path';
import { Program } from './program.mjs';
import { meets, median, spreadOf } from './statistics.mjs';

/** This machine cannot do it: the benchmark is listed as skipped, with what is missing. */
export class Missing extends Error {}

const UNITS = { ns: 1, us: 1e3, ms: 1e6, s: 1e9 };

export class Bench {
  /** `'host'` or `'lab'`. */
  where;
  quick;
  /** The package, as a program gets it. */
  api;
  rows = [];
  #name;
  #programs;
  #failures;
  #open = [];
  #report;

  constructor({ name, where, quick, programs, failures, api, report }) {
    Object.assign(this, { where, quick, api });
    this.#name = name;
    this.#programs = programs;
    this.#failures = failures;
    this.#report = report;
    try {
      // Threads and programs started from now on inherit it, so it is the same for both sides.
      setPriority(constants.priority.PRIORITY_HIGHEST);
    } catch {
      // For root only; the rounds of others are disturbed more often.
    }
  }

  /** Starts bench/c/NAME.c. It ends with the benchmark. */
  program(name, argv = []) {
    const failure = this.#failures[name];
    if (failure !== undefined) throw new Missing(failure);
    const program = new Program(join(this.#programs, name), argv);
    this.#open.push(program);
    return program;
  }

  /** `lab` where this runs in the lab, else `host`: for targets, rounds and sizes that differ. */
  choose({ host, lab }) {
    return this.where === 'lab' ? lab : host;
  }

  /** Keeps this thread, and each program started from now on, on the last CPU, so that both sides have the same one. */
  pin() {
    try {
      execFileSync('taskset', ['-cp', String(availableParallelism() - 1), String(process.pid)], { stdio: 'ignore' });
    } catch {
      // Without taskset (util-linux) the rounds are longer apart in what they see of the machine, and no less fair.
    }
  }

  /**
   * Both sides in turn, A B B A, many short rounds; a row of medians. `ours(n)` and `baseline(n)` do their thing n times
   * and give the nanoseconds it took, or a promise of them.
   *
   * `ratio` is the median over the pairs of time here / time there; with `speed`, of speed here / speed there.
   * `n` is found by trying, such that a round takes `roundMs`, unless it is given.
   */
  async compare({ name, unit = 'ns', target, ours, baseline, n, roundMs, rounds, speed = false, note }) {
    const pairs = rounds ?? (this.quick ? 25 : this.choose({ host: 401, lab: 101 }));
    const size = n ?? (await this.#calibrate(ours, roundMs ?? this.choose({ host: 1, lab: 10 })));
    // The same warm-up for both, long enough for the compilers here: by time, since operations may be few and long.
    const enough = this.choose({ host: 0.2e9, lab: 1.5e9 });
    for (let round = 0, spent = 0; round < 2 || (round < 100 && spent < enough); round++) {
      spent += await ours(size);
      await baseline(size);
    }
    const here = [];
    const there = [];
    for (let pair = 0; pair < pairs; pair++) {
      if (pair % 2 === 0) here.push(await ours(size));
      there.push(await baseline(size));
      if (pair % 2 === 1) here.push(await ours(size));
      this.progress(pair + 1, pairs, name);
    }
    const per = size * UNITS[unit];
    const ratios = here.map((time, pair) => (speed ? there[pair] / time : time / there[pair]));
    return this.row({
      name,
      unit,
      ours: median(here) / per,
      baseline: median(there) / per,
      ratio: median(ratios),
      spread: spreadOf(ratios),
      runs: pairs,
      target,
      note,
    });
  }

  /**
   * One line of the result. `target` is `'<= 1.05'`, or `{ host, lab }` of such, and speaks about `ratio`; about `value`
   * where that is given. Without one the row is reported only.
   */
  row({
    name = this.#name,
    unit,
    ours,
    baseline = null,
    ratio = null,
    spread = null,
    runs = 1,
    target,
    value = ratio,
    note,
  }) {
    const wanted = (typeof target === 'object' ? target[this.where] : target) ?? null;
    const row = {
      name,
      where: this.where,
      unit,
      ours,
      baseline,
      ratio,
      spread,
      runs,
      target: wanted,
      ok: wanted === null ? null : meets(wanted, value),
      ...(note === undefined ? {} : { note }),
    };
    this.rows.push(row);
    this.#report({ row });
    return row;
  }

  progress(done, total, text) {
    this.#report({ progress: { done, total, text } });
  }

  async close() {
    for (const program of this.#open) await program.close();
  }

  /** How often to do something for a round to take about so long. */
  async #calibrate(run, roundMs) {
    let n = 1;
    for (;;) {
      const time = Math.min(await run(n), await run(n));
      if (time >= roundMs * 0.5e6) return Math.max(1, Math.round((n * roundMs * 1e6) / time));
      n = Math.ceil(n * Math.min(10, Math.max(2, (roundMs * 1e6) / Math.max(time, 1))));
    }
  }
}
