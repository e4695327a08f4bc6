/** Builds the child program from the tree as it is, and runs it. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { build } from 'vite';
import { readSignatures } from './signatures.ts';

const ROOT = resolve(import.meta.dirname, '../..');
// Without a new call for so long, it hangs. An emulated processor is slow.
const STALL_MS = 120_000;

export interface Program {
  readonly directory: string;
  readonly file: string;
  readonly signatures: string;
  remove(): void;
}

export interface Ended {
  /** What the child wrote to stdout. */
  readonly output: string;
  /** What went wrong, with seed and call; undefined for nothing. */
  readonly failure: string | undefined;
}

/** One bundle: under an emulated processor, loading a hundred files takes longer than fuzzing. */
export async function buildProgram(entry = 'child.ts'): Promise<Program> {
  const directory = mkdtempSync(join(tmpdir(), 'node-kvm-fuzz-'));
  await build({
    root: ROOT,
    configFile: false,
    logLevel: 'error',
    cacheDir: join(directory, 'cache'),
    build: {
      ssr: join(import.meta.dirname, entry),
      outDir: directory,
      emptyOutDir: false,
      target: 'node20',
      minify: false,
      rollupOptions: { output: { entryFileNames: 'child.mjs' } },
    },
  });
  // The package that the bundle finds itself in.
  for (const name of ['node_modules', 'build', 'binding.gyp', 'package.json'])
    symlinkSync(join(ROOT, name), join(directory, name));
  const signatures = join(directory, 'signatures.json');
  writeFileSync(signatures, JSON.stringify(readSignatures(ROOT)));
  return {
    directory,
    signatures,
    file: join(directory, 'child.mjs'),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** Runs the child with one task. A crash, a hang and an error all come back as a failure that names the call. */
export function runProgram(program: Program, task: object): Promise<Ended> {
  const progress = join(program.directory, 'progress');
  writeFileSync(progress, 'before the first call');
  const lastCall = (): string => readFileSync(progress, 'utf8').trim();
  return new Promise((resolveEnded, reject) => {
    const argv = [
      '--expose-gc',
      '--no-warnings',
      program.file,
      JSON.stringify({ ...task, progress, signatures: program.signatures }),
    ];
    const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let errors = '';
    let stalled = false;
    child.stdout.on('data', (chunk) => {
      output += String(chunk);
    });
    child.stderr.on('data', (chunk) => {
      errors += String(chunk);
    });
    let last = '';
    let since = Date.now();
    const watch = setInterval(() => {
      const now = lastCall();
      if (now !== last) [last, since] = [now, Date.now()];
      else if (Date.now() - since > STALL_MS) stalled = child.kill('SIGKILL');
    }, 1000);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearInterval(watch);
      const why = stalled
        ? `hung at ${lastCall()}`
        : signal !== null
          ? `ended by ${signal} at ${lastCall()}`
          : code !== 0
            ? `exit code ${code}, the last call was ${lastCall()}`
            : undefined;
      resolveEnded({ output, failure: why === undefined ? undefined : `${why}\n${errors.slice(0, 30_000)}` });
    });
  });
}
