/** Programs of the build: run to their end, every line in the log, killed with this process. */
import { spawn } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { LabError, type LabErrorCode } from './error.ts';

const SHOWN_LINES = 25;

export interface RunLoggedOptions {
  /** Appended to. */
  readonly log: string;
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly onLine?: (line: string) => void;
  readonly signal?: AbortSignal;
  /** How the message of a failure begins. */
  readonly what: string;
  readonly code?: LabErrorCode;
  /** Lines too many to keep (the names of unpacked files). */
  readonly quiet?: boolean;
}

/** @throws LabError with the last lines of the output, when the program fails. */
export async function runLogged(argv: readonly [string, ...string[]], options: RunLoggedOptions): Promise<void> {
  const { log, cwd, env, onLine, signal, what, code = 'ERR_KVM_LAB_BUILD', quiet = false } = options;
  signal?.throwIfAborted();
  const fd = openSync(log, 'a');
  const last: string[] = [];
  try {
    writeSync(fd, `\n$ ${argv.join(' ')}\n`);
    // A make that outlived its parent would go on in a directory that the next build takes for its own.
    const child = spawn('setpriv', ['--pdeathsig', 'TERM', ...argv], {
      stdio: ['ignore', 'pipe', 'pipe'], ...(cwd === undefined ? {} : { cwd }), ...(env === undefined ? {} : { env }),
    });
    const onAbort = (): void => void child.kill('SIGTERM');
    signal?.addEventListener('abort', onAbort, { once: true });
    const take = (line: string, keep: boolean): void => {
      if (keep) {
        writeSync(fd, `${line}\n`);
        last.push(line);
        if (last.length > SHOWN_LINES) last.shift();
      }
      onLine?.(line);
    };
    createInterface({ input: child.stdout }).on('line', (line) => take(line, !quiet));
    createInterface({ input: child.stderr }).on('line', (line) => take(line, true));
    const how = await new Promise<string | undefined>((resolve) => {
      child.once('error', (error) => resolve(error.message));
      child.once('close', (status, name) => resolve(status === 0 ? undefined : name === null ? `exit code ${status}` : `signal ${name}`));
    });
    signal?.removeEventListener('abort', onAbort);
    signal?.throwIfAborted();
    if (how !== undefined) throw new LabError(`${what}: ${argv[0]} ended with ${how}; the log is ${log}`, code, { lines: last });
  } finally {
    closeSync(fd);
  }
}
