import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished } from 'vitest';
import { Vcpu } from '../../lib/kvm/index.ts';
import type { VcpuToken } from '../../lib/kvm/index.ts';
import { expectExit, HLT, OUT, realMode, SPIN } from './vcpu-guest.ts';
import { addonPath } from '../native/guest.ts';
import { kvmTest } from './support.ts';

describe('a token', () => {
  kvmTest('is a plain value', () => {
    const { vcpu } = realMode([HLT]);
    const token = vcpu.share();
    expect(token).toMatchObject({ kind: 'node-kvm:vcpu', id: 0 });
    expect(structuredClone(token)).toEqual(token);
  });

  kvmTest('gives a second handle to the same vCPU', async () => {
    const { vm, vcpu } = realMode([...OUT, ...SPIN]);
    const other = Vcpu.adopt(vcpu.share(), vm);
    expect(other.id).toBe(vcpu.id);
    vcpu.updateRegs({ rbx: 0x99n });
    expect(other.getRegs().rbx).toBe(0x99n);
    expectExit(other.runSync(), 'io');
    other.completePendingIo();
    const run = vcpu.run();
    expect(other.running).toBe(true);
    expect(() => other.getRegs()).toThrow(expect.objectContaining({ code: 'ERR_KVM_RUNNING' }));
    await expect(other.run()).rejects.toMatchObject({ code: 'ERR_KVM_RUNNING' });
    other.kick();
    expect(await run).toEqual({ reason: 'interrupted', cause: 'kick' });
  });

  kvmTest('keeps the vCPU alive until all handles are closed', () => {
    const { vm, vcpu } = realMode([HLT]);
    const other = Vcpu.adopt(vcpu.share(), vm);
    vcpu.close();
    expect(other.runSync()).toEqual({ reason: 'hlt' });
    const token = other.share();
    other.close();
    expect(() => Vcpu.adopt(token, vm)).toThrow();
  });

  kvmTest('of something else is refused', () => {
    const { vm } = realMode([HLT]);
    expect(() => Vcpu.adopt({ kind: 'node-kvm:vm' } as never, vm)).toThrow(TypeError);
    expect(() => Vcpu.adopt(1 as never, vm)).toThrow(/token made by vcpu.share/);
    expect(() => Vcpu.adopt({ kind: 'node-kvm:vcpu', id: 0, token: 0xffff_ffffn }, vm)).toThrow();
  });
});

describe('a worker', () => {
  // The addon alone: a worker has no loader for the TypeScript of the tests.
  const program = `
    const { parentPort, workerData } = require('node:worker_threads');
    const addon = require(workerData.addon);
    const vcpu = addon.adoptVcpu(workerData.token);
    parentPort.postMessage('ready');
    const code = vcpu.runSync(-1);
    parentPort.postMessage({ code, cause: vcpu.interruptCause });
    vcpu.close();
  `;

  async function start(token: VcpuToken): Promise<{ worker: Worker; next: () => Promise<unknown> }> {
    const worker = new Worker(program, { eval: true, workerData: { addon: addonPath, token: token.token } });
    onTestFinished(async () => void (await worker.terminate()));
    const next = () =>
      new Promise((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
    expect(await next()).toBe('ready');
    return { worker, next };
  }

  kvmTest('that runs a vCPU is kicked from here', async () => {
    const { vcpu } = realMode(SPIN);
    const { next } = await start(vcpu.share());
    const result = next();
    while (!vcpu.running) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(() => vcpu.getRegs()).toThrow(expect.objectContaining({ code: 'ERR_KVM_RUNNING' }));
    vcpu.kick();
    expect(await result).toEqual({ code: -4, cause: 1 });
    expect(vcpu.getRegs().rip).toBe(0x1000n);
  });

  kvmTest('that is terminated leaves the vCPU usable', async () => {
    const { vcpu } = realMode(SPIN);
    const { worker } = await start(vcpu.share());
    while (!vcpu.running) await new Promise((resolve) => setTimeout(resolve, 1));
    await worker.terminate();
    expect(vcpu.running).toBe(false);
    expect(vcpu.runSync({ timeoutMs: 10 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
  });
});
