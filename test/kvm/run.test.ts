import { spawn } from 'node:child_process';
import { describe, expect } from 'vitest';
import { expectExit, HLT, IN, OUT, realMode, SPIN } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

describe('runSync', () => {
  kvmTest('returns the first exit', () => {
    const { vcpu } = realMode([HLT]);
    expect(vcpu.runSync()).toEqual({ reason: 'hlt' });
    expect(vcpu.running).toBe(false);
  });

  kvmTest('goes on after each exit', () => {
    const { vcpu } = realMode([0xb0, 0x41, ...OUT, ...IN, ...OUT, HLT]);
    expect([...expectExit(vcpu.runSync(), 'io').data]).toEqual([0x41]);
    const read = expectExit(vcpu.runSync(), 'io');
    expect(read).toMatchObject({ direction: 'in', port: 0x10, size: 1, count: 1 });
    read.data[0] = 0x99;
    expect([...expectExit(vcpu.runSync(), 'io').data]).toEqual([0x99]);
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('ends at the time-out', () => {
    const { vcpu } = realMode(SPIN);
    const start = performance.now();
    expect(vcpu.runSync({ timeoutMs: 30.5 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
    expect(performance.now() - start).toBeGreaterThan(25);
    expect(vcpu.runSync({ timeoutMs: 0 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
    expect(vcpu.runSync({ timeoutMs: 20 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
  });

  kvmTest('does not end an exit that is faster than the time-out', () => {
    const { vcpu } = realMode([HLT, ...SPIN]);
    expect(vcpu.runSync({ timeoutMs: 5000 })).toEqual({ reason: 'hlt' });
    expect(vcpu.runSync({ timeoutMs: 20 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
  });

  kvmTest('ends at a signal to the process', async () => {
    const { vcpu } = realMode(SPIN);
    const ignore = () => undefined;
    process.on('SIGUSR2', ignore);
    try {
      // More than one: the kernel may deliver any of them to another thread of this process.
      const program = `setInterval(() => process.kill(${process.pid}, 'SIGUSR2'), 37)`;
      const child = spawn(process.execPath, ['-e', program], { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.on('exit', resolve));
      expect(vcpu.runSync({ timeoutMs: 20_000 })).toEqual({ reason: 'interrupted', cause: 'signal' });
      child.kill();
      await ended;
    } finally {
      process.off('SIGUSR2', ignore);
    }
  });

  kvmTest('refuses bad options', () => {
    const { vcpu } = realMode([HLT]);
    expect(() => vcpu.runSync({ timeoutMs: NaN })).toThrow(RangeError);
    expect(() => vcpu.runSync({ timeoutMs: -1 })).toThrow(RangeError);
    expect(() => vcpu.runSync({ timeoutMs: '1' as never })).toThrow(TypeError);
    expect(() => vcpu.runSync({ timeout: 1 } as never)).toThrow(/did you mean timeoutMs/);
    expect(vcpu.runSync({ timeoutMs: Infinity })).toEqual({ reason: 'hlt' });
  });

  kvmTest('throws after close', () => {
    const { vcpu } = realMode([HLT]);
    vcpu.close();
    vcpu.close();
    expect(() => vcpu.runSync()).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  });
});

describe('run', () => {
  kvmTest('resolves with the exit, and leaves the event loop free', async () => {
    const { vcpu } = realMode([0xb0, 0x41, ...OUT, HLT]);
    expect([...expectExit(await vcpu.run(), 'io').data]).toEqual([0x41]);
    expectExit(await vcpu.run(), 'hlt');
  });

  kvmTest('may take turns with runSync', async () => {
    const { vcpu } = realMode([...OUT, ...OUT, ...OUT, HLT]);
    expectExit(await vcpu.run(), 'io');
    expectExit(vcpu.runSync(), 'io');
    expectExit(await vcpu.run(), 'io');
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('ends at the time-out', async () => {
    const { vcpu } = realMode(SPIN);
    const start = performance.now();
    expect(await vcpu.run({ timeoutMs: 40 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
    expect(performance.now() - start).toBeGreaterThan(35);
    expect(await vcpu.run({ timeoutMs: 0 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
  });

  kvmTest('leaves nothing of a time-out that was not needed', async () => {
    const { vcpu } = realMode([HLT, ...SPIN]);
    expectExit(await vcpu.run({ timeoutMs: 1000 }), 'hlt');
    const start = performance.now();
    expect(await vcpu.run({ timeoutMs: 1300 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
    expect(performance.now() - start).toBeGreaterThan(1290);
    expect(await vcpu.run({ timeoutMs: 20 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
  });

  kvmTest('rejects when the signal aborts', async () => {
    const { vcpu } = realMode(SPIN);
    const controller = new AbortController();
    const run = vcpu.run({ signal: controller.signal });
    setTimeout(() => controller.abort(new Error('enough')), 20);
    await expect(run).rejects.toThrow('enough');
    expect(vcpu.running).toBe(false);
    expect(await vcpu.run({ timeoutMs: 10 })).toEqual({ reason: 'interrupted', cause: 'timeout' });
  });

  kvmTest('rejects when the signal aborts in the same turn', async () => {
    const { vcpu } = realMode(SPIN);
    const controller = new AbortController();
    const run = vcpu.run({ signal: controller.signal });
    controller.abort(new Error('at once'));
    await expect(run).rejects.toThrow('at once');
  });

  kvmTest('rejects without running when the signal has aborted', async () => {
    const { vcpu } = realMode([...OUT, HLT]);
    await expect(vcpu.run({ signal: AbortSignal.abort(new Error('before')) })).rejects.toThrow('before');
    expect(vcpu.getRegs().rip).toBe(0x1000n);
  });

  kvmTest('loses no exit to an abort', async () => {
    const { vcpu } = realMode([...OUT, HLT]);
    const controller = new AbortController();
    const run = vcpu.run({ signal: controller.signal });
    // The loop is busy until the exit is certainly there.
    while (vcpu.running) continue;
    controller.abort();
    expectExit(await run, 'io');
    await expect(vcpu.run({ signal: controller.signal })).rejects.toThrow(/abort/i);
    expectExit(await vcpu.run(), 'hlt');
  });

  kvmTest('takes its listener off the signal', async () => {
    const { vcpu } = realMode([...OUT, ...OUT, HLT]);
    const { signal } = new AbortController();
    let listeners = 0;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => (listeners++, add(...args));
    signal.removeEventListener = (...args: Parameters<typeof remove>) => (listeners--, remove(...args));
    await vcpu.run({ signal });
    await vcpu.run({ signal });
    expect(listeners).toBe(0);
  });

  kvmTest('refuses a second run, and state calls, while it runs', async () => {
    const { vcpu } = realMode(SPIN);
    const run = vcpu.run();
    expect(vcpu.running).toBe(true);
    const running = expect.objectContaining({ code: 'ERR_KVM_RUNNING', name: 'KvmStateError' });
    await expect(vcpu.run()).rejects.toEqual(running);
    expect(() => vcpu.runSync()).toThrow(running);
    expect(() => vcpu.getRegs()).toThrow(/kick\(\) it first/);
    expect(() => vcpu.setRegs(undefined as never)).toThrow(TypeError);
    expect(() => vcpu.updateRegs({ rax: 1n })).toThrow(running);
    expect(() => vcpu.completePendingIo()).toThrow(running);
    vcpu.kick();
    expect(await run).toEqual({ reason: 'interrupted', cause: 'kick' });
    expect(vcpu.getRegs().rip).toBe(0x1000n);
  });

  kvmTest('rejects when the vCPU is closed', async () => {
    const { vcpu } = realMode(SPIN);
    const run = vcpu.run();
    const closed = expect.objectContaining({ code: 'ERR_KVM_CLOSED', name: 'KvmStateError' });
    setTimeout(() => vcpu.close(), 20);
    await expect(run).rejects.toEqual(closed);
    await expect(vcpu.run()).rejects.toEqual(closed);
  });

  kvmTest('rejects when the vCPU is closed in the same turn', async () => {
    const { vcpu } = realMode(SPIN);
    const run = vcpu.run();
    vcpu.close();
    await expect(run).rejects.toMatchObject({ code: 'ERR_KVM_CLOSED' });
  });

  kvmTest('rejects when the VM is closed', async () => {
    const { vcpu, vm } = realMode(SPIN);
    const run = vcpu.run();
    setTimeout(() => vm.close(), 10);
    await expect(run).rejects.toMatchObject({ code: 'ERR_KVM_CLOSED' });
  });

  kvmTest('refuses bad options', async () => {
    const { vcpu } = realMode([HLT]);
    await expect(vcpu.run({ timeoutMs: NaN })).rejects.toThrow(RangeError);
    await expect(vcpu.run({ signal: {} as never })).rejects.toThrow(/Expected an AbortSignal for signal/);
    await expect(vcpu.run({ sginal: undefined } as never)).rejects.toThrow(/did you mean signal/);
  });
});

describe('exits', () => {
  kvmTest('delivers one after the other, and stops where the loop is left', async () => {
    const { vcpu } = realMode([0xb0, 1, ...OUT, 0xb0, 2, ...OUT, 0xb0, 3, ...OUT, HLT]);
    const seen: number[] = [];
    for await (const exit of vcpu.exits()) {
      seen.push(expectExit(exit, 'io').data[0]!);
      if (seen.length === 2) break;
    }
    expect(seen).toEqual([1, 2]);
    expect(vcpu.running).toBe(false);
    expect([...expectExit(vcpu.runSync(), 'io').data]).toEqual([3]);
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('takes answers in the body', async () => {
    const { vcpu } = realMode([...IN, ...OUT, HLT]);
    let written: number | undefined;
    for await (const exit of vcpu.exits()) {
      if (exit.reason === 'hlt') break;
      const io = expectExit(exit, 'io');
      if (io.direction === 'in') io.data[0] = 0x5a;
      else written = io.data[0];
    }
    expect(written).toBe(0x5a);
  });

  kvmTest('ends when the vCPU is closed, in the body or while it runs', async () => {
    const first = realMode([...OUT, HLT]).vcpu;
    for await (const exit of first.exits()) {
      expectExit(exit, 'io');
      first.close();
    }
    const second = realMode(SPIN).vcpu;
    setTimeout(() => second.close(), 20);
    for await (const exit of second.exits()) expect.unreachable(exit.reason);
    expect(() => second.exits()).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  });

  kvmTest('throws when the signal aborts', async () => {
    const { vcpu } = realMode([...OUT, ...SPIN]);
    const controller = new AbortController();
    let count = 0;
    const loop = async () => {
      for await (const exit of vcpu.exits({ signal: controller.signal })) {
        expectExit(exit, 'io');
        count++;
        setTimeout(() => controller.abort(new Error('enough')), 20);
      }
    };
    await expect(loop()).rejects.toThrow('enough');
    expect(count).toBe(1);
  });

  kvmTest('delivers kicks', async () => {
    const { vcpu } = realMode(SPIN);
    setTimeout(() => vcpu.kick(), 20);
    for await (const exit of vcpu.exits()) {
      expect(exit).toEqual({ reason: 'interrupted', cause: 'kick' });
      break;
    }
  });

  kvmTest('is ended by return() while it runs', async () => {
    const { vcpu } = realMode(SPIN);
    const exits = vcpu.exits();
    const next = exits.next();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await exits.return()).toEqual({ done: true, value: undefined });
    expect(await next).toEqual({ done: false, value: { reason: 'interrupted', cause: 'kick' } });
    expect(vcpu.running).toBe(false);
  });
});
