/** What every call must hold, whatever it was given. */
import { readdirSync, readFileSync } from 'node:fs';
import { types } from 'node:util';
import { KvmError } from '../../lib/errors.ts';
import { native } from '../../lib/native.ts';
import { FuzzerError } from './values.ts';

/** The sentences of V8 and of Node-API, which say nothing to who made the call. */
const RAW = [
  /Illegal invocation/,
  /private member/,
  /Cannot (read|set) propert/,
  /is not a function/,
  /is not iterable/,
  /Cannot destructure/,
  /Invalid argument$/,
  /Cannot convert/,
  /Cannot mix BigInt/,
  /not an? (object|constructor)$/,
  /^Invalid (typed )?array (buffer )?length/,
  /^Assertion|^Unknown native error/,
  /Offset is outside/,
  /undefined \(reading/,
  /A (boolean|number|string|function|object|bigint|buffer) (was|is)? ?expected/,
  /Reduce of empty/,
  /out of (range|bounds)$/,
  /detached ArrayBuffer/,
  /is not (defined|extensible)/,
  /BigInt .* (integer|bits)/,
  /Maximum call stack/,
  /circular structure/,
];

/** How the sentences of this package begin. */
const OURS = /^Expected |^Objects of this class|^KVM_\w+ is not (a request of|reached by number)/;

/** Why an error is not one of ours, or undefined. */
export function complaint(error: unknown): string | undefined {
  if (isFuzzers(error)) return undefined;
  if (!types.isNativeError(error)) return `what was thrown is no error: ${String(error)}`;
  const raw = RAW.find((pattern) => pattern.test(error.message));
  if (raw !== undefined) return `a raw error: ${error.stack}`;
  if (error instanceof KvmError)
    return typeof error.code === 'string' && error.code !== '' ? undefined : `no code: ${error.stack}`;
  if (error instanceof TypeError || error instanceof RangeError) {
    return OURS.test(error.message) || isNodes(error) ? undefined : `a sentence of another form: ${error.stack}`;
  }
  // The addon's own errors: KvmError is made of them above it.
  const { code } = error as { code?: unknown };
  return typeof code === 'string' && /^E[A-Z0-9_]+$/.test(code) ? undefined : `an error without a code: ${error.stack}`;
}

/** What the fuzzer's own getters, traps and signals throw, and what V8 says of its own proxies. */
function isFuzzers(error: unknown): boolean {
  for (let each = error; each !== undefined && each !== null; each = (each as { cause?: unknown }).cause) {
    if (each instanceof FuzzerError) return true;
    if (typeof each !== 'object') return false;
    if (each instanceof TypeError && /proxy that has been revoked|'get' on proxy|'ownKeys' on proxy/.test(each.message))
      return true;
  }
  return false;
}

/** Node's checks of what is handed to it, which have codes of their own. */
function isNodes(error: Error): boolean {
  return /^ERR_INVALID_ARG_(TYPE|VALUE)$|^ERR_OUT_OF_RANGE$/.test((error as { code?: string }).code ?? '');
}

export interface Holdings {
  readonly files: number;
  readonly mappings: number;
  readonly threads: number;
  readonly descriptors: number;
  readonly tasks: number;
}

/** What this process and the addon hold now. */
export function holdings(): Holdings {
  const tasks = /^Threads:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'));
  // Reading the directory takes a descriptor itself, each time.
  return { ...native().census(), descriptors: readdirSync('/proc/self/fd').length, tasks: Number(tasks![1]) };
}

/** Waits until nothing more is held than before; undefined then, or what stays. */
export async function leakedSince(before: Holdings, gc: () => void): Promise<string | undefined> {
  let more: string[] = [];
  for (let turn = 0; turn < 400; turn++) {
    const now = holdings();
    more = (Object.keys(before) as (keyof Holdings)[])
      .filter((what) => now[what] > before[what])
      .map((what) => `${what}: ${before[what]} before, ${now[what]} after`);
    if (more.length === 0) return undefined;
    if (turn > 0) gc();
    await new Promise((resolve) => setTimeout(resolve, turn < 10 ? 0 : 10));
  }
  return more.join('; ');
}
