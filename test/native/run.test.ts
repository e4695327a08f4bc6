// KVM_RUN in the calling thread and on the vCPU's own: results, kicks, time-outs, close.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { native } from '../../lib/native.ts';
import {
  completions,
  EINTR,
  EXIT_HLT,
  EXIT_IO,
  hasKvm,
  KVM_GET_REGS,
  makeGuest,
  OUT_HLT,
  OUT_LOOP,
  setRip,
  settledCensus,
  sleep,
  SPIN,
  type Guest,
} from './guest.ts';

const code = (expected: string) => expect.objectContaining({ code: expected });

describe.skipIf(!hasKvm)('KVM_RUN (needs /dev/kvm)', () => {
  let guest: Guest;
  let before: ReturnType<ReturnType<typeof native>['census']>;

  beforeEach(() => {
    before = native().census();
    guest = makeGuest(OUT_HLT);
  });

  afterEach(async () => {
    guest.close();
    expect(await settledCensus(before)).toEqual(before);
  });

  test('runs a guest of three bytes', () => {
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
    const run = new DataView(guest.vcpu.run);
    expect([run.getUint8(32), run.getUint8(33), run.getUint16(34, true), run.getUint32(36, true)]).toEqual([
      1, 1, 0x10, 1,
    ]);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_HLT);
    expect(guest.vcpu.run).toBe(guest.vcpu.run);
  });

  test('ends a spinning guest at the time-out', () => {
    guest.load(SPIN);
    for (const timeout of [0, 10, 200]) {
      const start = performance.now();
      expect(guest.vcpu.runSync(timeout)).toBe(EINTR);
      // Not before its time; how late depends on the machine.
      expect(performance.now() - start).toBeGreaterThanOrEqual(timeout - 1);
      expect(guest.vcpu.interruptCause).toBe(2);
    }
  });

  test('a time-out does not outlive its run', async () => {
    expect(guest.vcpu.runSync(20)).toBe(EXIT_IO);
    await sleep(40);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_HLT);
  });

  test('a kick with nothing to kick is forgotten, a sticky one is not', () => {
    guest.vcpu.kick(false);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
    guest.vcpu.kick(true);
    guest.vcpu.kick(true);
    expect(guest.vcpu.runSync(-1)).toBe(EINTR);
    expect(guest.vcpu.interruptCause).toBe(1);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_HLT);
  });

  test('completes a pending exit without entering the guest, and leaves a sticky kick', () => {
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
    guest.vcpu.kick(true);
    expect(guest.vcpu.completePending()).toBe(EINTR);
    const regs = new Uint8Array(144);
    guest.vcpu.ioctl(KVM_GET_REGS, regs);
    expect(new DataView(regs.buffer).getBigUint64(128, true)).toBe(0x1002n);
    expect(guest.vcpu.runSync(-1)).toBe(EINTR);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_HLT);
  });

  test('never reports a stale exit', () => {
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_HLT);
    new DataView(guest.vcpu.run).setUint8(1, 1);
    expect(guest.vcpu.runSync(-1)).toBe(EINTR);
    expect(guest.vcpu.interruptCause).toBe(4);
    expect(new DataView(guest.vcpu.run).getUint32(8, true)).not.toBe(EXIT_HLT);
  });

  test('runs on its own thread while the event loop turns', async () => {
    const next = completions(guest.vcpu);
    for (const expected of [EXIT_IO, EXIT_HLT]) {
      const done = next();
      guest.vcpu.startRun();
      expect(await done).toBe(expected);
    }
    guest.load(SPIN);
    const done = next();
    guest.vcpu.startRun();
    expect(guest.vcpu.running).toBe(true);
    expect(() => guest.vcpu.startRun()).toThrow(code('ERR_KVM_RUNNING'));
    expect(() => guest.vcpu.runSync(-1)).toThrow(code('ERR_KVM_RUNNING'));
    expect(() => guest.vcpu.ioctl(KVM_GET_REGS, new Uint8Array(144))).toThrow(code('ERR_KVM_RUNNING'));
    await sleep(20);
    guest.vcpu.kick(false);
    expect(await done).toBe(EINTR);
    expect(guest.vcpu.interruptCause).toBe(1);
    expect(guest.vcpu.running).toBe(false);
    guest.vcpu.ioctl(KVM_GET_REGS, new Uint8Array(144));
  });

  test('no exit and no kick is lost when they race', async () => {
    guest.load(OUT_LOOP);
    const next = completions(guest.vcpu);
    let exits = 0;
    let kicks = 0;
    for (let i = 0; i < 2000; i++) {
      const done = next();
      guest.vcpu.startRun();
      guest.vcpu.kick(true);
      const result = await done;
      if (result === EXIT_IO) exits++;
      else if (result === EINTR && guest.vcpu.interruptCause === 1) kicks++;
      else expect.unreachable(`result ${result}, cause ${guest.vcpu.interruptCause}`);
    }
    expect(exits + kicks).toBe(2000);
    guest.vcpu.kick(true);
    guest.vcpu.runSync(-1);
    expect([EXIT_IO]).toContain(guest.vcpu.runSync(-1));
  });

  test('a kick that is not kept ends the run that was just ordered, and no later one', async () => {
    guest.load(SPIN);
    const next = completions(guest.vcpu);
    for (let i = 0; i < 500; i++) {
      const done = next();
      guest.vcpu.startRun();
      guest.vcpu.kick(false);
      expect([await done, guest.vcpu.interruptCause]).toEqual([EINTR, 1]);
    }
    guest.load(OUT_HLT);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
  });

  test('close ends a run in progress and still tells', async () => {
    guest.load(SPIN);
    const done = completions(guest.vcpu)();
    guest.vcpu.startRun();
    await sleep(10);
    const { run } = guest.vcpu;
    guest.vcpu.close();
    expect(run.byteLength).toBe(0);
    expect(await done).toBe(EINTR);
    expect(guest.vcpu.interruptCause).toBe(8);
    expect(guest.vcpu.closed).toBe(true);
    expect(() => guest.vcpu.runSync(-1)).toThrow(code('ERR_KVM_CLOSED'));
    expect(() => guest.vcpu.run).toThrow(code('ERR_KVM_CLOSED'));
  });

  test('a vCPU runs on after its VM, its memory and the system are closed', () => {
    guest.vm.close();
    guest.memory.close();
    guest.system.close();
    setRip(guest.vcpu, 0x1000n);
    expect(guest.vcpu.runSync(-1)).toBe(EXIT_IO);
  });

  test('the kernel cannot be asked about what is still running from another handle', async () => {
    const twin = native().adoptVcpu(guest.vcpu.token());
    guest.load(SPIN);
    const done = completions(guest.vcpu)();
    guest.vcpu.startRun();
    expect(() => twin.runSync(-1)).toThrow(code('ERR_KVM_RUNNING'));
    expect(twin.running).toBe(true);
    await sleep(10);
    twin.kick(false);
    expect(await done).toBe(EINTR);
    guest.vcpu.close();
    expect(twin.runSync(10)).toBe(EINTR);
    twin.close();
  });
});
