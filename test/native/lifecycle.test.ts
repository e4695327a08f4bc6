// Ends of workers and of the process, in the middle of everything.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { native } from '../../lib/native.ts';
import {
  addonPath,
  completions,
  EINTR,
  EXIT_IO,
  hasKvm,
  makeGuest,
  OUT_LOOP,
  settledCensus,
  SPIN,
  sleep,
} from './guest.ts';

const fixture = (name: string) => join(import.meta.dirname, 'fixtures', name);

function startWorker(task: string, data: object = {}) {
  const worker = new Worker(fixture('worker.mjs'), { workerData: { addon: addonPath, task, ...data }, execArgv: [] });
  const messages: unknown[] = [];
  const waiting: ((message: unknown) => void)[] = [];
  worker.on('message', (message) => {
    const next = waiting.shift();
    if (next === undefined) messages.push(message);
    else next(message);
  });
  const exited = new Promise<number>((resolve) => worker.on('exit', resolve));
  const failed = new Promise<Error>((resolve) => worker.on('error', resolve));
  const message = () =>
    messages.length > 0 ? Promise.resolve(messages.shift()) : new Promise((resolve) => waiting.push(resolve));
  return { worker, message, exited, failed };
}

function runProgram(
  stage: string,
  before: string[] = [],
): Promise<{ code: number | null; signal: string | null; stderr: string }> {
  return new Promise((resolve, reject) => {
    const [command, ...argv] = [...before, process.execPath, '--expose-gc', fixture('exit.mjs'), addonPath, stage];
    const child = spawn(command, argv, { stdio: ['ignore', 'inherit', 'pipe'], timeout: 20_000 });
    let stderr = '';
    child.stderr.on('data', (chunk) => {
      stderr += String(chunk);
    });
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stderr }));
  });
}

describe.skipIf(!hasKvm)('workers (need /dev/kvm)', () => {
  test.each(['spinSync', 'spinAsync'])('terminating ends %s and gives everything back', async (task) => {
    const before = native().census();
    for (let i = 0; i < 5; i++) {
      const { worker, message } = startWorker(task);
      await message();
      await sleep(i * 20);
      // Would never settle if the run did not end.
      await worker.terminate();
    }
    expect(await settledCensus(before)).toEqual(before);
  });

  test('terminating ends a poll', async () => {
    const before = native().census();
    const { worker, message } = startWorker('pollForever');
    await message();
    await worker.terminate();
    expect(await settledCensus(before)).toEqual(before);
  });

  test('process.exit and an uncaught error in a callback', async () => {
    const before = native().census();
    expect(await startWorker('exitInCallback').exited).toBe(3);
    expect(await startWorker('throwInCallback').failed).toMatchObject({ message: 'from the callback' });
    expect(await settledCensus(before)).toEqual(before);
  });

  test('a vCPU is kicked from another thread than the one that runs it', async () => {
    const guest = makeGuest(SPIN);
    const { message, exited } = startWorker('runAdopted', { token: guest.vcpu.token() });
    await message();
    // Longer than a few looks of the watchdog, none of which may be seen.
    await sleep(250);
    expect(guest.vcpu.running).toBe(true);
    expect(() => guest.vcpu.runSync(-1)).toThrow(expect.objectContaining({ code: 'ERR_KVM_RUNNING' }));
    guest.vcpu.kick(true);
    expect(await message()).toEqual({ code: EINTR, cause: 1 });
    await exited;
    guest.close();
  });

  test('a worker that is terminated leaves what it adopted to the others', async () => {
    const guest = makeGuest(SPIN);
    const { worker, message } = startWorker('runAdopted', { token: guest.vcpu.token() });
    await message();
    await worker.terminate();
    guest.load(OUT_LOOP);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
    guest.close();
  });

  test('memory and eventfds are shared by token', async () => {
    const memory = native().mapAnonymous(0x1000n, { shared: false, hugetlb: 0, noreserve: false });
    const eventfd = native().createEventfd(0, false);
    const ready = new Promise<number>((resolve) => eventfd.poll(resolve));
    expect(() => eventfd.poll(() => {})).toThrow(expect.objectContaining({ code: 'ERR_KVM_STATE' }));
    const { exited } = startWorker('useAdopted', { memory: memory.token(), eventfd: eventfd.token() });
    expect(await ready).toBe(0);
    expect([eventfd.read(), eventfd.read()]).toEqual([7n, undefined]);
    await exited;
    const byte = new Uint8Array(1);
    memory.read(0n, byte);
    expect(byte[0]).toBe(42);
    expect(() => native().adoptVm(memory.token())).toThrow(TypeError);
    const token = memory.token();
    memory.close();
    expect(() => native().adoptMapping(token)).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
    eventfd.close();
  });
});

describe.skipIf(!hasKvm)('ends of the process (need /dev/kvm)', () => {
  test.each([
    'exitWhileSpinning',
    'exitInCallback',
    'exitWhileWorkerSpins',
    'endWithAllOpen',
    'uncaught',
    'collected',
    'closeUnderCrypto',
    'kickAfterListener',
  ])('%s', async (stage) => {
    expect(await runProgram(stage)).toEqual({ code: 0, signal: null, stderr: '' });
  });

  test.skipIf(!existsSync('/usr/bin/prlimit'))('a kick needs no room in the queue of signals', async () => {
    const result = await runProgram('kickWithoutQueue', ['prlimit', '--sigpending=0']);
    expect(result).toEqual({ code: 0, signal: null, stderr: '' });
  });
});

test.skipIf(!hasKvm)('closing a poll and a pending run in any order', async () => {
  const guest = makeGuest(SPIN);
  const done = completions(guest.vcpu)();
  guest.vcpu.startRun();
  guest.close();
  expect(await done).toBe(EINTR);
  const eventfd = native().createEventfd(1, true);
  eventfd.poll(() => expect.unreachable());
  eventfd.cancelPoll();
  eventfd.poll(() => expect.unreachable());
  eventfd.close();
  eventfd.close();
  await sleep(10);
});
