/** A lock between processes that the kernel releases when its holder dies, however it dies (flock). */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { LabError } from './error.ts';

export interface Lock {
  release(): Promise<void>;
}

/**
 * Waits for the lock on the file at `path`. `onWait` is told who holds it, if somebody does.
 *
 * `flock FILE cat` holds the lock while `cat` lives, and `cat` lives as long as our end of its pipe is open.
 */
export async function acquireLock(path: string, { onWait, signal }: {
  readonly onWait?: (holder: string) => void; readonly signal?: AbortSignal;
} = {}): Promise<Lock> {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, '', { flag: 'a' });
  const child = spawn('flock', ['--exclusive', path, 'cat'], { stdio: ['pipe', 'pipe', 'inherit'], detached: true });
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  child.stdin.on('error', () => {});
  const release = async (): Promise<void> => {
    child.stdin.end();
    await ended;
  };
  const timer = setTimeout(() => onWait?.(readFileSync(path, 'utf8').trim()), 300);
  const onAbort = (): void => void child.kill('SIGTERM');
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await new Promise<void>((resolve, reject) => {
      child.once('error', (cause) => reject(new LabError('flock (of util-linux) could not be started', 'ERR_KVM_LAB_BUILD', { cause })));
      child.once('close', () => reject(signal?.aborted === true ? signal.reason : new LabError(`the lock ${path} could not be taken`, 'ERR_KVM_LAB_BUILD')));
      // cat gives it back, and cat runs only once the lock is ours.
      child.stdin.write('\n');
      child.stdout.once('data', () => resolve());
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
  writeFileSync(path, `process ${process.pid}\n`);
  return { release };
}
