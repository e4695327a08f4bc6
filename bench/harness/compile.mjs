// The C programs: one per file of bench/c, compiled when a run starts.
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const sources = join(import.meta.dirname, '../c');

/**
 * Compiles every program into `directory`. Statically for the lab, which need not have the same C library.
 * A program that does not compile is left out: what went wrong is in the result, by name.
 */
export async function compileAll(directory, { isStatic = false, names = undefined } = {}) {
  const failures = new Map();
  const all = readdirSync(sources)
    .filter((file) => file.endsWith('.c'))
    .map((file) => file.slice(0, -2));
  for (const name of all.filter((each) => names === undefined || names.has(each))) {
    const argv = [
      '-O2',
      '-std=gnu17',
      '-Wall',
      '-Wextra',
      '-pthread',
      ...(isStatic ? ['-static'] : []),
      '-o',
      join(directory, name),
      join(sources, `${name}.c`),
      '-lm',
    ];
    try {
      await promisify(execFile)(process.env.CC ?? 'cc', argv);
    } catch (error) {
      failures.set(
        name,
        error.code === 'ENOENT' ? 'a C compiler (cc)' : `a C program that compiles: ${error.stderr ?? error.message}`,
      );
    }
  }
  return failures;
}
