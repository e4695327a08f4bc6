/** What the conformance tests share: names, the kernel's answers, and scenarios that several points look at. */
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { it, TestRunner } from 'vitest';
import { kvmTest } from '../kvm/support.ts';
import type { KvmTestOptions } from '../kvm/support.ts';
import { point } from './points.ts';

export { point } from './points.ts';
export { inLab, kvmTest } from '../kvm/support.ts';

export const PAGE = 4096;
export const TWO_MIB = 0x20_0000;
export const GIB = 1n << 30n;

export interface KernelAnswer {
  readonly id: string;
  readonly answer: string;
  readonly kernel: string;
  readonly backend: string;
}

declare module 'vitest' {
  interface TaskMeta {
    /** Where this kernel answers otherwise than the point says. */
    kernelDiffers?: KernelAnswer[];
  }
}

const [major = 0, minor = 0] = release().split('.').map(Number);

/** Whether this kernel is of that version or a later one. */
export function kernelIs(wantedMajor: number, wantedMinor: number): boolean {
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

/** What KVM rests on here. `'none'`: it runs guests without the processor's help. */
export const backend: 'vmx' | 'svm' | 'none' = (/^flags\s*:.*\b(vmx|svm)\b/m.exec(
  readFileSync('/proc/cpuinfo', 'utf8'),
)?.[1] ?? 'none') as 'vmx' | 'svm' | 'none';

/**
 * Records with the running test that this kernel's answer to a point is another than the point's. The test asserts that
 * answer all the same.
 */
export function kernelDiffers(id: string, answer: string): void {
  point(id);
  const test = TestRunner.getCurrentTest();
  if (test === undefined) throw new Error('kernelDiffers() belongs into a test');
  (test.meta.kernelDiffers ??= []).push({ id, answer, kernel: release(), backend });
}

/** What a call came to: `'success'`, the errno's name, or the name of an error that no kernel gave (`'RangeError'`). */
export function outcome(call: () => unknown): string {
  try {
    call();
    return 'success';
  } catch (error) {
    return outcomeOf(error);
  }
}

export function outcomeOf(error: unknown): string {
  const { code, name } = error as { code?: string; name?: string };
  return code ?? name ?? String(error);
}

/** How often each word is there: `{ EINVAL: 4095 }`. */
export function tally(words: Iterable<string>): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  return counts;
}

/** How often there was each outcome of a call with each argument. */
export function outcomes<T>(each: Iterable<T>, call: (one: T) => unknown): Record<string, number> {
  return tally(Array.from(each, (one) => outcome(() => call(one))));
}

/** `from`, `from + 1`, ... below `end`. */
export function* numbers(from: number, end: number): Generator<number> {
  for (let each = from; each < end; each++) yield each;
}

/** 1, 2, 4, ...: each single bit of a word. */
export function* bits(count: number): Generator<bigint> {
  for (let bit = 0n; bit < BigInt(count); bit++) yield 1n << bit;
}

/** A scenario that is played once, by the first test that looks at it; what it throws fails each of them. */
export function once<T>(play: () => T): () => T {
  let played: { readonly result: T } | { readonly error: unknown } | undefined;
  return () => {
    if (played === undefined) {
      try {
        played = { result: play() };
      } catch (error) {
        played = { error };
      }
    }
    if ('error' in played) throw played.error;
    return played.result;
  };
}

export interface PointOptions extends KvmTestOptions {
  /** Which VM type, backing and so on, where a point has several tests. */
  readonly variant?: string | undefined;
  /** A need that no capability tells of, where it is not met. */
  readonly lacks?: string | undefined;
}

/** That a test hangs: thousands of tries, or a compiler, take their time on the lab's processor. */
const HANG_MS = 600_000;

/** The test of one point, skipped by the name of what is missing. */
export function pointTest(id: string, run: () => unknown): void;
export function pointTest(id: string, options: PointOptions, run: () => unknown): void;
export function pointTest(id: string, second: PointOptions | (() => unknown), third?: () => unknown): void {
  const [{ variant, lacks, ...options }, run]: [PointOptions, () => unknown] =
    typeof second === 'function' ? [{}, second] : [second, third!];
  const name = point(id, variant);
  if (lacks === undefined) kvmTest(name, { timeout: HANG_MS, ...options }, run);
  else it.skip(`${name} [needs ${lacks}]`);
}
