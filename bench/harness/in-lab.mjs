// The same run inside the lab: the programs are compiled here, and carried in.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runInLab } from '../../dist/lab/index.js';

/** Runs bench/run.mjs in the lab; its rows, and its exit code. */
export async function benchInLab({ scratch, names, quick, hugePages = 8 }) {
  const results = join(scratch, 'results.json');
  const argv = [
    process.execPath,
    join(import.meta.dirname, '../run.mjs'),
    '--programs',
    scratch,
    '--json',
    results,
    ...(quick ? ['--quick'] : []),
    ...names,
  ];
  const { exitCode } = await runInLab({
    argv,
    cwd: join(import.meta.dirname, '../..'),
    writable: [scratch],
    hugePages,
    stdout: process.stdout,
    stderr: process.stderr,
  });
  return { exitCode, rows: JSON.parse(readFileSync(results, 'utf8')) };
}
