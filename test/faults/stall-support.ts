/**
 * Programs that run apart: where the addon is wrong they die of a signal or hang, and the runner must not. They have
 * the addon alone, since a plain Node loads no TypeScript.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { onTestFinished } from 'vitest';
import type { NativeAddon, NativeMapping, NativeSystem, NativeVcpu, NativeVm } from '../../lib/native.ts';
import { addonPath } from '../native/guest.ts';

export interface ApartGuest {
  readonly system: NativeSystem;
  readonly vm: NativeVm;
  /** 64 KiB at gpa 0 in slot 0; the code is at 0x1000, where the vCPU is. */
  readonly memory: NativeMapping;
  readonly vcpu: NativeVcpu;
}

/** Of node:assert/strict. Its own type narrows, for which it would have to be declared in each program. */
export interface Assert {
  equal(actual: unknown, expected: unknown): void;
  ok(value: unknown, message?: string): void;
  throws(act: () => unknown, error?: object): void;
  rejects(promise: Promise<unknown>, error?: object): Promise<void>;
}

/** What a program gets. It sees nothing else of the file that it is written in. */
export interface Apart<Input> {
  readonly addon: NativeAddon;
  readonly assert: Assert;
  readonly input: Input;
  makeGuest(code: readonly number[]): ApartGuest;
  /** A line to the parent, at once. */
  say(value: unknown): void;
  /** A node module by its name. */
  load(name: string): Promise<any>;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stderr: string;
  /** What it said. */
  readonly said: readonly unknown[];
}

export const FINE: Pick<Ended, 'code' | 'signal' | 'stderr'> = { code: 0, signal: null, stderr: '' };

export interface Program {
  readonly child: ChildProcess;
  /** The next thing that it says; rejects where it ends first, or says nothing for so long that it hangs. */
  next(): Promise<unknown>;
  readonly ended: Promise<Ended>;
}

const HANGS_AFTER_MS = 60_000;

/** Starts `program` in a Node of its own. */
export function startApart<Input>(program: (tools: Apart<Input>) => unknown, input: Input): Program {
  const guest = pathToFileURL(join(import.meta.dirname, '../native/fixtures/guest.mjs')).href;
  const text = `
    import assert from 'node:assert/strict';
    import { writeSync } from 'node:fs';
    import { addon, makeGuest } from ${JSON.stringify(guest)};
    const input = JSON.parse(process.argv[3]);
    const say = (value) => writeSync(1, JSON.stringify(value) + '\\n');
    await (${program.toString()})({ addon, assert, input, makeGuest, say, load: (name) => import(name) });
  `;
  const argv = ['--input-type=module', '--expose-gc', '-e', text, '-', addonPath, JSON.stringify(input)];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
  const said: unknown[] = [];
  const wake: (() => void)[] = [];
  let taken = 0;
  let rest = '';
  let stderr = '';
  let over = false;
  child.stdout.on('data', (chunk: Buffer) => {
    const lines = (rest + chunk.toString()).split('\n');
    rest = lines.pop()!;
    for (const line of lines) said.push(JSON.parse(line));
    for (const go of wake.splice(0)) go();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      over = true;
      for (const go of wake.splice(0)) go();
      resolve({ code, signal, stderr, said });
    });
  });
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  async function next(): Promise<unknown> {
    while (taken === said.length) {
      if (over) throw new Error(`the program ended: ${JSON.stringify(await ended)}`);
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error('the program says nothing: it hangs')), HANGS_AFTER_MS);
        wake.push(() => (clearTimeout(timer), resolve()));
      });
    }
    return said[taken++];
  }
  return { child, next, ended };
}

/** Runs `program` to its end. */
export async function apart<Input>(program: (tools: Apart<Input>) => unknown, input: Input): Promise<Ended> {
  const started = startApart(program, input);
  const timer = setTimeout(() => started.child.kill('SIGKILL'), HANGS_AFTER_MS);
  try {
    return await started.ended;
  } finally {
    clearTimeout(timer);
  }
}

/** How long a stress goes on. NODE_KVM_STRESS_SECONDS lengthens it. */
export const stressMs = 1000 * Number(process.env['NODE_KVM_STRESS_SECONDS'] ?? 5);
/** For the `timeout` of a stress. */
export const stressTimeout = 60_000 + 3 * stressMs;
