/**
 * Programs that live and die apart from the runner. They are TypeScript on the public API, bundled here from lib/ as it
 * stands: a plain Node 20 loads no TypeScript, dist/ may be older than what is tested, and one file starts faster than
 * a hundred under the lab's emulated CPU. The addon is the one in build/.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { expect, onTestFinished } from 'vitest';

const root = join(import.meta.dirname, '../..');
const sources = join(import.meta.dirname, 'children');
/** Only to tell a hang from slowness. */
const HANGS_AFTER_MS = 240_000;

let bundled: Promise<string> | undefined;

/** The directory of the bundled programs, made at the first use and removed when the runner ends. */
function bundle(): Promise<string> {
  return (bundled ??= (async () => {
    const directory = mkdtempSync(join(tmpdir(), 'node-kvm-children-'));
    process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
    // What lib/native.ts looks for above itself.
    for (const name of ['binding.gyp', 'build', 'node_modules', 'package.json'])
      symlinkSync(join(root, name), join(directory, name));
    await build({
      entryPoints: readdirSync(sources).map((name) => join(sources, name)),
      outdir: join(directory, 'children'),
      outExtension: { '.js': '.mjs' },
      bundle: true,
      splitting: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      logLevel: 'error',
    });
    return join(directory, 'children');
  })());
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
  /** The lines that it said. */
  readonly said: readonly string[];
}

export interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  /** Resolves when it has said this line; rejects where it ends without. */
  heard(line: string): Promise<void>;
}

export interface StartOptions {
  /** A command in front of Node that executes it: `['prlimit', '--nofile=64']`. */
  readonly before?: readonly string[];
  readonly input?: readonly string[];
}

/** Starts `children/<program>.ts` with a stage of it. Killed when the test is over. */
export async function start(
  program: string,
  stage: string,
  { before = [], input = [] }: StartOptions = {},
): Promise<Running> {
  const file = join(await bundle(), `${program}.mjs`);
  const [command, ...argv] = [...before, process.execPath, '--expose-gc', file, stage, ...input];
  const child = spawn(command!, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let stderr = '';
  const changed: (() => void)[] = [];
  const wake = (): void => changed.splice(0).forEach((go) => go());
  const said = (): string[] => out.split('\n').slice(0, -1);
  let over = false;
  child.stdout.on('data', (chunk: Buffer) => ((out += chunk.toString()), wake()));
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const timer = setTimeout(() => {
    stderr += `(killed: it hangs after ${HANGS_AFTER_MS} ms)`;
    child.kill('SIGKILL');
  }, HANGS_AFTER_MS);
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      over = true;
      clearTimeout(timer);
      resolve({ code, signal, stderr, said: said() });
      wake();
    });
  });
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await ended.catch(() => {});
  });
  async function heard(line: string): Promise<void> {
    while (!said().includes(line)) {
      if (over) throw new Error(`it ended without "${line}": ${JSON.stringify(await ended)}`);
      await new Promise<void>((resolve) => changed.push(resolve));
    }
  }
  return { child, ended, heard };
}

/** Runs it to its end, which must be clean: exit code 0 and nothing on stderr. Gives the lines that it said. */
export async function clean(program: string, stage: string, options?: StartOptions): Promise<readonly string[]> {
  const { said, ...end } = await (await start(program, stage, options)).ended;
  expect({ ...end, stage }).toEqual({ code: 0, signal: null, stderr: '', stage });
  return said;
}

/** For the `timeout` of a test that runs such a program: it ends by itself or is killed before. */
export const APART = { timeout: HANGS_AFTER_MS + 20_000 } as const;
