import { options, rangeError, typeError } from '../../arguments.ts';

/** How {@link Vcpu.runSync} ends by itself. */
export interface RunSyncOptions {
  /**
   * The run ends with `{ reason: 'interrupted', cause: 'timeout' }` when the guest was in for this many milliseconds
   * without an exit. 0 ends it at the first chance, fractions count. Default: Infinity, no time-out.
   */
  readonly timeoutMs?: number;
}

/** How {@link Vcpu.run} ends by itself. */
export interface RunOptions extends RunSyncOptions {
  /** Aborting it rejects the run with `signal.reason`. An exit that was faster is returned; the next run rejects. */
  readonly signal?: AbortSignal;
}

/** What {@link Vcpu.exits} takes. */
export interface ExitsOptions {
  /** Aborting it makes the loop throw `signal.reason`. An exit that was faster is delivered first. */
  readonly signal?: AbortSignal;
}

/** @internal The longest delay of setTimeout: above it, Node fires at once. */
export const MAX_TIMER_MS = 0x7fff_ffff;

/** @internal -1 for none. */
export function checkTimeout(timeoutMs: unknown): number {
  if (timeoutMs === undefined || timeoutMs === Infinity) return -1;
  if (typeof timeoutMs !== 'number') throw typeError('a number of milliseconds', 'timeoutMs', timeoutMs);
  if (!(timeoutMs >= 0)) throw rangeError('0 or more milliseconds', 'timeoutMs', timeoutMs);
  return timeoutMs;
}

/** @internal */
export function checkSignal(signal: unknown): AbortSignal | undefined {
  if (signal === undefined) return undefined;
  if (!(signal instanceof AbortSignal)) throw typeError('an AbortSignal', 'signal', signal);
  return signal;
}

/** @internal */
export function checkRunSyncOptions(given: RunSyncOptions): number {
  return checkTimeout(options('options', given, ['timeoutMs']).timeoutMs);
}

/** @internal */
export function checkRunOptions(given: RunOptions): { timeoutMs: number; signal: AbortSignal | undefined } {
  const { timeoutMs, signal } = options('options', given, ['timeoutMs', 'signal']);
  return { timeoutMs: checkTimeout(timeoutMs), signal: checkSignal(signal) };
}
