/** Guests that never exit, and guests that wait for an interrupt: whatever ends a run ends it there too. */
import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished } from 'vitest';
import { Eventfd } from '../../lib/kvm/index.ts';
import type { Vcpu } from '../../lib/kvm/index.ts';
import { kvmTest } from '../kvm/support.ts';
import { expectExit, realMode, SPIN } from '../kvm/vcpu-guest.ts';
import { addonPath } from '../native/guest.ts';
import { GSI, haltedGuest, reportMax } from './stall-guest.ts';

const KICKED = { reason: 'interrupted', cause: 'kick' };
const TIMED_OUT = { reason: 'interrupted', cause: 'timeout' };
const ROUNDS = 20;

/** How each call that ends a run ends this one. `fresh` makes the vCPU, which does not exit. */
function ends(fresh: () => Vcpu): void {
  kvmTest('a time-out, synchronous and not', async () => {
    const vcpu = fresh();
    const late: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const timeoutMs = round % 7;
      const start = performance.now();
      expect(round % 2 === 0 ? vcpu.runSync({ timeoutMs }) : await vcpu.run({ timeoutMs })).toEqual(TIMED_OUT);
      late.push(performance.now() - start - timeoutMs);
    }
    reportMax('a time-out came late by', late);
  });

  kvmTest('a kick', async () => {
    const vcpu = fresh();
    const took: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const run = vcpu.run();
      await new Promise((resolve) => setTimeout(resolve, round % 5));
      const start = performance.now();
      vcpu.kick();
      expect(await run).toEqual(KICKED);
      took.push(performance.now() - start);
    }
    reportMax('a kick ended the run within', took);
  });

  kvmTest('an abort', async () => {
    const vcpu = fresh();
    for (let round = 0; round < ROUNDS; round++) {
      const controller = new AbortController();
      const run = vcpu.run({ signal: controller.signal });
      setTimeout(() => controller.abort(new Error(`round ${round}`)), round % 5);
      await expect(run).rejects.toThrow(`round ${round}`);
    }
  });

  kvmTest('closing the vCPU', async () => {
    const vcpu = fresh();
    const run = vcpu.run();
    const rejected = expect(run).rejects.toMatchObject({ code: 'ERR_KVM_CLOSED' });
    await new Promise((resolve) => setTimeout(resolve, 10));
    const start = performance.now();
    vcpu.close();
    reportMax('closing took', [performance.now() - start]);
    await rejected;
  });

  kvmTest('closing its VM', async () => {
    const vcpu = fresh();
    const loop = (async () => {
      for await (const exit of vcpu.exits()) expect.unreachable(exit.reason);
    })();
    await new Promise((resolve) => setTimeout(resolve, 10));
    vcpu.vm.close();
    await loop;
  });

  kvmTest('terminating the worker that runs it', async () => {
    const vcpu = fresh();
    const took: number[] = [];
    for (const command of ['vcpu.runSync(-1)', 'vcpu.onComplete(() => {}), vcpu.startRun()']) {
      const program = `
        const { parentPort, workerData } = require('node:worker_threads');
        const vcpu = require(workerData.addon).adoptVcpu(workerData.token);
        parentPort.postMessage('ready');
        ${command};
      `;
      const worker = new Worker(program, { eval: true, workerData: { addon: addonPath, token: vcpu.share().token } });
      onTestFinished(async () => void (await worker.terminate()));
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
      while (!vcpu.running) await new Promise((resolve) => setTimeout(resolve, 1));
      const start = performance.now();
      await worker.terminate();
      took.push(performance.now() - start);
      expect(vcpu.running).toBe(false);
    }
    reportMax('terminating took', took);
    expect(vcpu.runSync({ timeoutMs: 5 })).toEqual(TIMED_OUT);
  });
}

describe('a guest that never exits is ended by', () => ends(() => realMode(SPIN).vcpu));

describe('a guest that waits in HLT, in the kernel, is ended by', () => ends(() => haltedGuest().vcpu));

describe('a guest that waits in HLT', () => {
  kvmTest('is woken by an interrupt, after whatever ended its runs before', async () => {
    const { vm, vcpu } = haltedGuest();
    const line = Eventfd.create();
    onTestFinished(() => line.close());
    vm.irqfd({ eventfd: line, gsi: GSI });
    const ways: (() => Promise<void>)[] = [
      async () => expect(vcpu.runSync({ timeoutMs: 5 })).toEqual(TIMED_OUT),
      async () => expect(await vcpu.run({ timeoutMs: 5 })).toEqual(TIMED_OUT),
      async () => {
        vcpu.kick();
        expect(vcpu.runSync()).toEqual(KICKED);
      },
      async () => {
        const run = vcpu.run();
        setTimeout(() => vcpu.kick(), 5);
        expect(await run).toEqual(KICKED);
      },
    ];
    for (let round = 0; round < 12; round++) {
      await ways[round % ways.length]!();
      // Before the run, during it, and while it is about to halt again.
      if (round % 3 === 0) line.write(1n);
      const run = vcpu.run();
      if (round % 3 === 1) setTimeout(() => line.write(1n), 5);
      if (round % 3 === 2) line.write(1n);
      expect(expectExit(await run, 'io').port).toBe(0x80);
    }
  });

  kvmTest('is woken by vm.irqLine while another handle kicks', async () => {
    const { vm, vcpu } = haltedGuest();
    for (let round = 0; round < ROUNDS; round++) {
      const run = vcpu.run();
      await new Promise((resolve) => setTimeout(resolve, round % 3));
      vcpu.kick();
      vm.irqLine(GSI, true);
      vm.irqLine(GSI, false);
      const exits = [await run, await vcpu.run({ timeoutMs: 30_000 })];
      // Whichever came first: both are seen, and each once.
      expect(exits.map(({ reason }) => reason).sort()).toEqual(['interrupted', 'io']);
      expect(vcpu.runSync({ timeoutMs: 1 })).toEqual(TIMED_OUT);
    }
  });
});
