/**
 * Floods of signals from another process: KVM_RUN ends with EINTR all the time. No exit is lost, and no signal that has
 * a handler. The runs are in programs apart, which the signals are sent to from here.
 */
import { describe, expect } from 'vitest';
import { kvmTest } from '../kvm/support.ts';
import { addonPath } from '../native/guest.ts';
import { COUNT_SLOWLY } from './stall-guest.ts';
import { FINE, startApart, stressMs, stressTimeout } from './stall-support.ts';
import type { Program } from './stall-support.ts';

/** l: inc cx; mov [0x2000], cx; jmp l: shows that it runs, and never exits. */
const COUNT = [0x41, 0x89, 0x0e, 0x00, 0x20, 0xeb, 0xf9];

/** Sends `signals` in turn, as fast as this process can, until the program says something. Says how many. */
async function flood(program: Program, signals: readonly NodeJS.Signals[]): Promise<{ sent: number; said: unknown }> {
  let said: { value: unknown } | undefined;
  let failed: unknown;
  program.next().then(
    (value) => {
      said = { value };
    },
    (error: unknown) => {
      failed = error;
    },
  );
  let sent = 0;
  while (said === undefined && failed === undefined) {
    for (let burst = 0; burst < 50; burst++) program.child.kill(signals[sent++ % signals.length]);
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (failed !== undefined) throw failed;
  return { sent, said: said!.value };
}

interface Input {
  readonly code: readonly number[];
  readonly ms: number;
  readonly signals: readonly string[];
}

describe('under a flood of signals', () => {
  // SIGSTKFLT is the kick's own signal; nobody else's kick may look like one of ours.
  const kinds: NodeJS.Signals[][] = [['SIGUSR2'], ['SIGSTKFLT'], ['SIGUSR2', 'SIGSTKFLT', 'SIGWINCH', 'SIGCONT']];
  for (const signals of kinds) {
    kvmTest(`of ${signals.join(', ')}, runSync gives every exit once`, { timeout: stressTimeout }, async () => {
      const program = startApart<Input>(
        async ({ input, makeGuest, say }) => {
          const { vcpu } = makeGuest(input.code);
          let handled = 0;
          for (const signal of input.signals) process.on(signal, () => handled++);
          const data = new DataView(vcpu.run);
          vcpu.runSync(1000);
          say('ready');
          let counted = 1;
          let interrupted = 0;
          const causes: Record<number, number> = {};
          const end = Date.now() + input.ms;
          while (Date.now() < end) {
            for (let runs = 0; runs < 200; runs++) {
              const code = vcpu.runSync(-1);
              if (code === 2) {
                counted = (counted + 1) & 0xffff;
                // kvm_run.io.data_offset is at 40.
                const value = data.getUint16(Number(data.getBigUint64(40, true)), true);
                if (value !== counted) throw new Error(`exit ${value} came where ${counted} was next`);
              } else if (code === -4) {
                interrupted++;
                causes[vcpu.interruptCause] = (causes[vcpu.interruptCause] ?? 0) + 1;
              } else {
                throw new Error(`result ${code}`);
              }
            }
            await new Promise((resolve) => setImmediate(resolve));
          }
          say({ interrupted, handled, causes: Object.keys(causes) });
          process.exit(0);
        },
        { code: COUNT_SLOWLY, ms: stressMs / 3, signals },
      );
      expect(await program.next()).toBe('ready');
      const { sent, said } = await flood(program, signals);
      console.info(`${sent} signals sent: ${JSON.stringify(said)}`);
      // How many is not told: a signal that was not delivered yet takes in the ones after it.
      expect(said).toMatchObject({ causes: ['4'] });
      expect((said as { handled: number }).handled).toBeGreaterThan(0);
      expect(await program.ended).toMatchObject(FINE);
    });
  }

  kvmTest('the own thread of a vCPU gives every exit once, and every kick', { timeout: stressTimeout }, async () => {
    const program = startApart<Input>(
      async ({ input, makeGuest, say }) => {
        const { vcpu } = makeGuest(input.code);
        process.on('SIGUSR2', () => {});
        const data = new DataView(vcpu.run);
        let ended = (_code: number) => {};
        vcpu.onComplete((code) => ended(code));
        const run = () =>
          new Promise<number>((resolve) => {
            ended = resolve;
            vcpu.startRun();
          });
        await run();
        say('ready');
        let counted = 1;
        let kicks = 0;
        let seen = 0;
        const end = Date.now() + input.ms;
        for (let round = 0; Date.now() < end; round++) {
          if (round % 3 === 0) {
            vcpu.kick(true);
            kicks++;
          }
          const code = await run();
          if (code === -4) {
            if (vcpu.interruptCause !== 1) throw new Error(`interrupted by cause ${vcpu.interruptCause}`);
            seen++;
            continue;
          }
          counted = (counted + 1) & 0xffff;
          const value = data.getUint16(Number(data.getBigUint64(40, true)), true);
          if (code !== 2 || value !== counted)
            throw new Error(`exit ${code}, ${value}, came where ${counted} was next`);
        }
        say({ lostKicks: kicks - seen, kicks });
        process.exit(0);
      },
      { code: COUNT_SLOWLY, ms: stressMs, signals: [] },
    );
    expect(await program.next()).toBe('ready');
    const { sent, said } = await flood(program, ['SIGSTKFLT', 'SIGUSR2']);
    console.info(`${sent} signals sent: ${JSON.stringify(said)}`);
    expect(said).toMatchObject({ lostKicks: 0 });
    expect(await program.ended).toMatchObject(FINE);
  });

  kvmTest('a time-out still ends a run, and close as well', { timeout: stressTimeout }, async () => {
    const program = startApart<Input>(
      async ({ input, makeGuest, say }) => {
        const { vcpu } = makeGuest(input.code);
        process.on('SIGUSR2', () => {});
        vcpu.runSync(1);
        say('ready');
        let longest = 0;
        const end = Date.now() + input.ms;
        while (Date.now() < end) {
          const start = performance.now();
          // Until the time-out itself is what ends it: the signals do all the time.
          do {
            const code = vcpu.runSync(Math.max(0, start + 20 - performance.now()));
            if (code !== -4) throw new Error(`exit ${code} of a guest that makes none`);
          } while ((vcpu.interruptCause & 2) === 0);
          longest = Math.max(longest, performance.now() - start - 20);
        }
        vcpu.onComplete(() => {});
        vcpu.startRun();
        vcpu.close();
        say({ longest: Math.round(longest) });
        process.exit(0);
      },
      { code: COUNT, ms: stressMs / 3, signals: [] },
    );
    expect(await program.next()).toBe('ready');
    const { sent, said } = await flood(program, ['SIGSTKFLT', 'SIGUSR2']);
    console.info(`${sent} signals sent; a time-out came late by at most ${(said as { longest: number }).longest} ms`);
    expect(await program.ended).toMatchObject(FINE);
  });
});

describe('a signal that has a handler', () => {
  for (const flooded of [true, false]) {
    const beside = flooded ? ", beside the kick's own signal" : '';
    kvmTest(`ends the synchronous run that it comes in${beside}`, { timeout: stressTimeout }, async () => {
      const program = startApart(
        async ({ input, load, makeGuest, say }) => {
          const { Worker } = await load('node:worker_threads');
          const { memory, vcpu } = makeGuest(input.code);
          let handled = 0;
          process.on('SIGUSR2', () => handled++);
          // The round. The thread sends the signal when it has seen the guest run in that round: then this thread is in
          // KVM_RUN.
          const cells = new Int32Array(new SharedArrayBuffer(4));
          const worker = new Worker(
            `
          const { parentPort, workerData: { addon, token, cells } } = require('node:worker_threads');
          const memory = require(addon).adoptMapping(token);
          const counter = new Uint16Array(memory.buffer(0x2000n, 2));
          parentPort.postMessage('ready');
          for (let round = 1; ; round++) {
            while (Atomics.load(cells, 0) < round) Atomics.wait(cells, 0, round - 1);
            // Atomically, or the compiler reads it once for all of the loop.
            const before = Atomics.load(counter, 0);
            while (Atomics.load(counter, 0) === before);
            // The watchdog looks in every 50 ms: meet it.
            const until = performance.now() + (round % 8 === 0 ? Math.random() * 110 : Math.random());
            while (performance.now() < until);
            process.kill(process.pid, 'SIGUSR2');
          }
        `,
            { eval: true, execArgv: [], workerData: { addon: input.addon, token: memory.token(), cells } },
          );
          await new Promise((resolve) => worker.once('message', resolve));
          // From here on the kick's own signal has a handler.
          vcpu.runSync(0);
          say('ready');
          let lost = 0;
          let rounds = 0;
          const end = Date.now() + input.ms;
          while (Date.now() < end) {
            const before = handled;
            Atomics.store(cells, 0, ++rounds);
            Atomics.notify(cells, 0);
            while (handled === before) {
              if (vcpu.runSync(10_000) !== -4) throw new Error('an exit of a guest that makes none');
              if ((vcpu.interruptCause & 2) !== 0) lost++;
              // Handlers are called when the loop polls, which the first of these may come before.
              for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
            }
          }
          say({ rounds, lost });
          process.exit(0);
        },
        { code: COUNT, ms: stressMs, addon: addonPath },
      );
      expect(await program.next()).toBe('ready');
      const said = flooded ? (await flood(program, ['SIGSTKFLT'])).said : await program.next();
      console.info(`${flooded ? 'in a flood' : 'alone'}: ${JSON.stringify(said)}`);
      expect(said).toMatchObject({ lost: 0 });
      expect(await program.ended).toMatchObject(FINE);
    });
  }
});
