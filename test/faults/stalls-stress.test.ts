/**
 * Storms of kicks while the guest exits and while it waits, with every exit, every kick and every interrupt counted:
 * none may be lost, none may come twice. About 5 s each; NODE_KVM_STRESS_SECONDS lengthens them.
 */
import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished } from 'vitest';
import { Eventfd } from '../../lib/kvm/index.ts';
import type { Vcpu, VcpuExit } from '../../lib/kvm/index.ts';
import { kvmTest } from '../kvm/support.ts';
import { realMode } from '../kvm/vcpu-guest.ts';
import { addonPath } from '../native/guest.ts';
import { COUNT_OUT, COUNT_SLOWLY, GSI, haltedGuest } from './stall-guest.ts';
import { stressMs, stressTimeout } from './stall-support.ts';

// Cells that the threads share.
const STOP = 0;
const SEEN = 1;
const DONE = 2;
const LOST = 3;
const CELLS = 4;

/** How long a thread waits before it calls something lost: far beyond any scheduling delay. */
const LOST_AFTER_MS = 30_000;

/** A thread that does `act` (of the vCPU or eventfd `it`) over and over, and counts. */
class Helper {
  readonly cells = new Int32Array(new SharedArrayBuffer(CELLS * 4));
  readonly #ended: Promise<unknown>;
  readonly #ready: Promise<unknown>;

  /**
   * @param adopt - how the addon adopts the token.
   * @param acknowledged - wait after each until {@link seen} was called.
   */
  constructor(adopt: 'adoptVcpu' | 'adoptEventfd', token: bigint, act: string, acknowledged: boolean, pauseMs: number) {
    const program = `
      const { parentPort, workerData } = require('node:worker_threads');
      const { addon, adopt, token, cells, acknowledged, pauseMs } = workerData;
      const it = require(addon)[adopt](token);
      const nothing = new Int32Array(new SharedArrayBuffer(4));
      parentPort.postMessage('ready');
      while (Atomics.load(cells, ${STOP}) === 0) {
        if (pauseMs > 0) Atomics.wait(nothing, 0, 0, Math.random() * pauseMs);
        const before = Atomics.load(cells, ${SEEN});
        ${act};
        Atomics.add(cells, ${DONE}, 1);
        // In a loop: the notification of the one before may come late, and wakes this one.
        while (acknowledged && Atomics.load(cells, ${SEEN}) === before) {
          if (Atomics.wait(cells, ${SEEN}, before, ${LOST_AFTER_MS}) !== 'timed-out') continue;
          Atomics.add(cells, ${LOST}, 1);
          Atomics.store(cells, ${STOP}, 1);
          break;
        }
      }
      it.close();
    `;
    const worker = new Worker(program, {
      eval: true,
      workerData: { addon: addonPath, adopt, token, cells: this.cells, acknowledged, pauseMs },
    });
    onTestFinished(async () => void (await worker.terminate()));
    this.#ready = new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
    this.#ended = new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject));
  }

  ready = (): Promise<unknown> => this.#ready;

  seen(): void {
    Atomics.add(this.cells, SEEN, 1);
    Atomics.notify(this.cells, SEEN);
  }

  /** Says that it shall stop; it does after what it is waiting for. */
  askToStop(): void {
    Atomics.store(this.cells, STOP, 1);
  }

  get done(): number {
    return Atomics.load(this.cells, DONE);
  }

  get lost(): number {
    return Atomics.load(this.cells, LOST);
  }

  ended = (): Promise<unknown> => this.#ended;
}

type Run = (round: number) => VcpuExit | Promise<VcpuExit>;

/** The ways to run, and all of them in turn. */
function waysOf(vcpu: Vcpu): Record<string, Run> {
  const loop = vcpu.exits();
  const exits: Run = async () => {
    const next = await loop.next();
    if (next.done === true) throw new Error('the loop ended');
    return next.value;
  };
  const runSync: Run = () => vcpu.runSync({ timeoutMs: LOST_AFTER_MS });
  const run: Run = () => vcpu.run({ timeoutMs: LOST_AFTER_MS });
  const each = [runSync, run, exits, () => vcpu.run({ timeoutMs: 0 }), () => vcpu.runSync({ timeoutMs: 0 })];
  return { runSync, run, exits, 'all of them in turn': (round) => each[round % each.length]!(round) };
}

const WAYS = ['runSync', 'run', 'exits', 'all of them in turn'];

describe('kicks from a thread, each acknowledged', () => {
  for (const way of WAYS) {
    kvmTest(`${way}: every exit comes in order, every kick ends one run`, { timeout: stressTimeout }, async () => {
      const { vcpu } = realMode(COUNT_OUT);
      const run = waysOf(vcpu)[way]!;
      const kicker = new Helper('adoptVcpu', vcpu.share().token, 'it.kick(true)', true, 0.2);
      await kicker.ready();
      let counted = 0;
      let kicks = 0;
      const see = (exit: VcpuExit): void => {
        if (exit.reason === 'io') {
          counted = (counted + 1) & 0xffff;
          const value = exit.data[0]! | (exit.data[1]! << 8);
          if (value !== counted) throw new Error(`exit ${value} came where ${counted} was next`);
        } else if (exit.reason === 'interrupted' && exit.cause === 'kick') {
          kicks++;
          kicker.seen();
        } else if (exit.reason !== 'interrupted' || exit.cause !== 'timeout' || !way.startsWith('all')) {
          throw new Error(`unexpected exit: ${JSON.stringify(exit)}`);
        }
      };
      const end = Date.now() + stressMs;
      let rounds = 0;
      while (Date.now() < end) see(await run(rounds++));
      kicker.askToStop();
      let over = false;
      const ended = kicker.ended().then(() => {
        over = true;
      });
      while (!over) {
        see(await run(rounds++));
        if (rounds % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      await ended;
      console.info(`${way}: ${rounds} runs, ${kicker.done} kicks`);
      expect(kicker.lost).toBe(0);
      // The last one may have found no run in progress after the loop had ended.
      for (let left = 0; left < 3; left++) see(vcpu.runSync());
      expect(kicks).toBe(kicker.done);
      expect(kicks).toBeGreaterThan(0);
    });
  }
});

describe('a storm of kicks from two threads, which wait for nothing', () => {
  kvmTest('loses no exit, and leaves one kick at most', { timeout: stressTimeout }, async () => {
    const { vcpu } = realMode(COUNT_SLOWLY);
    const run = waysOf(vcpu)['all of them in turn']!;
    const { token } = vcpu.share();
    const storm = [0.05, 0.1].map((pause) => new Helper('adoptVcpu', token, 'it.kick(true)', false, pause));
    for (const helper of storm) await helper.ready();
    let counted = 0;
    let interrupted = 0;
    const see = (exit: VcpuExit): void => {
      if (exit.reason === 'interrupted') {
        interrupted++;
        return;
      }
      if (exit.reason !== 'io') throw new Error(`unexpected exit: ${exit.reason}`);
      counted = (counted + 1) & 0xffff;
      const value = exit.data[0]! | (exit.data[1]! << 8);
      if (value !== counted) throw new Error(`exit ${value} came where ${counted} was next`);
    };
    const end = Date.now() + stressMs;
    let rounds = 0;
    while (Date.now() < end) see(await run(rounds++));
    for (const helper of storm) helper.askToStop();
    for (const helper of storm) await helper.ended();
    const kicks = storm[0]!.done + storm[1]!.done;
    console.info(`storm: ${rounds} runs, ${interrupted} ended by ${kicks} kicks and by time-outs`);
    expect(interrupted).toBeGreaterThan(0);
    expect(rounds - interrupted).toBeGreaterThan(0);
    vcpu.kick();
    expect(vcpu.runSync()).toEqual({ reason: 'interrupted', cause: 'kick' });
    for (let left = 0; left < 100; left++) {
      const exit = vcpu.runSync();
      expect(exit.reason).toBe('io');
      see(exit);
    }
  });
});

describe('interrupts to a guest in HLT, each acknowledged', () => {
  for (const way of WAYS.slice(0, 3)) {
    for (const storm of [false, true]) {
      const title = `${way}${storm ? ', in a storm of kicks' : ''}: none is lost, none comes twice`;
      kvmTest(title, { timeout: stressTimeout }, async () => {
        const { vm, vcpu } = haltedGuest();
        const line = Eventfd.create();
        onTestFinished(() => line.close());
        vm.irqfd({ eventfd: line, gsi: GSI });
        const run = waysOf(vcpu)[way]!;
        const waker = new Helper('adoptEventfd', line.share().token, 'it.write(1n)', true, storm ? 0.1 : 0.3);
        const kicker = storm ? new Helper('adoptVcpu', vcpu.share().token, 'it.kick(true)', false, 0.1) : undefined;
        await waker.ready();
        await kicker?.ready();
        let woken = 0;
        let runs = 0;
        const see = (exit: VcpuExit): void => {
          runs++;
          if (exit.reason === 'io') {
            woken++;
            waker.seen();
          } else if (!storm || exit.reason !== 'interrupted' || exit.cause !== 'kick') {
            throw new Error(`unexpected exit: ${JSON.stringify(exit)}`);
          }
        };
        const end = Date.now() + stressMs / 2;
        while (Date.now() < end) see(await run(runs));
        // The kicks stop first, so that each run from here on is one interrupt, and the count is known when they stop.
        kicker?.askToStop();
        await kicker?.ended();
        waker.askToStop();
        let over = false;
        const ended = waker.ended().then(() => {
          over = true;
        });
        while (!over) {
          const exit = vcpu.runSync({ timeoutMs: 20 });
          if (exit.reason !== 'interrupted') see(exit);
          await new Promise((resolve) => setImmediate(resolve));
        }
        await ended;
        console.info(`${way}: ${waker.done} interrupts in ${runs} runs${storm ? `, ${kicker!.done} kicks` : ''}`);
        expect(waker.lost).toBe(0);
        expect(woken).toBe(waker.done);
        expect(woken).toBeGreaterThan(0);
        expect(vcpu.runSync({ timeoutMs: 20 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
      });
    }
  }
});
