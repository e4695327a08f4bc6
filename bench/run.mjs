// npm run bench -- [--json FILE] [--lab] [--quick] [--list] [name...]: see README.md.
import { fork } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { progress } from '../dist/terminal.js';
import { compileAll } from './harness/compile.mjs';
import { describeMachine, drawTable } from './harness/table.mjs';

const usage = `usage: npm run bench -- [--json FILE] [--lab] [--quick] [--list] [name...]
  --json   write the rows to FILE as well
  --lab    run in the lab
  --quick  fewer rounds: for a look, not for figures to quote, and a missed target is no failure
  --list   name the benchmarks
Exit codes: 0 every target met, 1 a target missed or a benchmark failed, 2 wrong usage.`;

function refuse(text) {
  console.error(`${text}\n${usage}`);
  process.exit(2);
}

const { values, positionals } = readArguments();
if (values.help) {
  console.log(usage);
  process.exit(0);
}
const benchmarks = await findBenchmarks();
if (values.list) {
  for (const [name, { what }] of benchmarks) console.log(`${name.padEnd(18)} ${what}`);
  process.exit(0);
}
const unknown = positionals.find((name) => !benchmarks.has(name));
if (unknown !== undefined)
  refuse(`Expected one of ${[...benchmarks.keys()].join(', ')} for name but received ${unknown}`);
const names = [...benchmarks.keys()].filter((name) => positionals.length === 0 || positionals.includes(name));

const scratch = values.programs ?? mkdtempSync(join(tmpdir(), 'node-kvm-bench-'));
try {
  process.exitCode = await main();
} finally {
  if (values.programs === undefined) rmSync(scratch, { recursive: true, force: true });
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        json: { type: 'string' },
        lab: { type: 'boolean', default: false },
        quick: { type: 'boolean', default: false },
        list: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
        // Where a run outside of the lab has left the compiled programs.
        programs: { type: 'string' },
      },
    });
  } catch (error) {
    return refuse(error.message);
  }
}

/** Every module beside this one is a benchmark. */
async function findBenchmarks() {
  const found = new Map();
  for (const file of readdirSync(import.meta.dirname).sort()) {
    if (!file.endsWith('.mjs') || file === 'run.mjs') continue;
    found.set(file.slice(0, -4), (await import(join(import.meta.dirname, file))).default);
  }
  return found;
}

async function main() {
  const failuresFile = join(scratch, 'failures.json');
  if (values.programs === undefined) {
    const failures = await compileAll(scratch, { isStatic: values.lab });
    writeFileSync(failuresFile, JSON.stringify(Object.fromEntries(failures)));
  }
  if (values.lab) {
    const { benchInLab } = await import('./harness/in-lab.mjs');
    const { exitCode, rows } = await benchInLab({ scratch, names, quick: values.quick });
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rows, undefined, 2)}\n`);
    return exitCode;
  }
  const failures = JSON.parse(readFileSync(failuresFile, 'utf8'));
  const rows = [];
  console.log(describeMachine());
  for (const name of names) rows.push(...(await runOne(name, failures)));
  console.log(drawTable(rows));
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rows, undefined, 2)}\n`);
  // A quick run has too few rounds to hold a figure against its target.
  return rows.some(({ ok, failed }) => failed !== undefined || (ok === false && !values.quick)) ? 1 : 0;
}

/** A benchmark in a process of its own; its rows. */
function runOne(name, failures) {
  const where = process.env.NODE_KVM_LAB === '1' ? 'lab' : 'host';
  const without = {
    name,
    where,
    unit: null,
    ours: null,
    baseline: null,
    ratio: null,
    spread: null,
    runs: 0,
    target: null,
    ok: null,
  };
  const { execArgv = [] } = benchmarks.get(name);
  const bar = process.stderr.isTTY === true ? progress(name) : undefined;
  const rows = [];
  return new Promise((resolve) => {
    const options = JSON.stringify({ name, where, quick: values.quick, programs: scratch, failures });
    const child = fork(join(import.meta.dirname, 'harness/child.mjs'), [options], { execArgv });
    let over = false;
    child.on('message', ({ row, progress: step, skipped, failed }) => {
      if (row !== undefined) rows.push(row);
      if (step !== undefined) bar?.update(step.done, step.total, step.text);
      if (skipped !== undefined) rows.push({ ...without, skipped });
      if (failed !== undefined) rows.push({ ...without, ok: false, failed });
    });
    child.on('close', (code, signal) => {
      if (over) return;
      over = true;
      bar?.stop();
      if (code !== 0) rows.push({ ...without, ok: false, failed: `the process ended with ${signal ?? code}` });
      resolve(rows);
    });
  });
}
