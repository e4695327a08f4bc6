/** Eventfds, which need no KVM: the counter, the wait, and its ends. */
import { Worker } from 'node:worker_threads';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Eventfd } from '../../lib/kvm/eventfd.ts';
import type { EventfdOptions } from '../../lib/kvm/eventfd.ts';

function eventfd(options?: EventfdOptions): Eventfd {
  const made = Eventfd.create(options);
  onTestFinished(() => made.close());
  return made;
}

describe('the counter', () => {
  it('adds up, and is taken as a whole', () => {
    const fd = eventfd({ initial: 2 });
    expect(fd.write(3)).toBe(true);
    expect(fd.write(1n << 40n)).toBe(true);
    expect(fd.read()).toBe((1n << 40n) + 5n);
    expect(fd.read()).toBeUndefined();
  });

  it('is taken one by one in semaphore mode', () => {
    const fd = eventfd({ initial: 2, semaphore: true });
    expect([fd.read(), fd.read(), fd.read()]).toEqual([1n, 1n, undefined]);
  });

  it('says when it is full, and stays as it is', () => {
    const fd = eventfd();
    expect(fd.write(0xffff_ffff_ffff_fffen)).toBe(true);
    expect(fd.write(1)).toBe(false);
    expect(fd.read()).toBe(0xffff_ffff_ffff_fffen);
  });

  it('refuses what it cannot hold', () => {
    const fd = eventfd();
    expect(() => fd.write(0xffff_ffff_ffff_ffffn)).toThrow(/^Expected at most 2\^64 - 2 for value/);
    expect(() => fd.write(-1)).toThrow(RangeError);
    expect(() => fd.write('1' as never)).toThrow(TypeError);
    expect(() => Eventfd.create({ initial: 2 ** 32 })).toThrow(RangeError);
    expect(() => Eventfd.create({ start: 1 } as never)).toThrow(/Expected no key start in options/);
  });
});

describe('wait', () => {
  it('gives at once what is there', async () => {
    const fd = eventfd({ initial: 7 });
    expect(await fd.wait()).toBe(7n);
  });

  it('gives what comes later', async () => {
    const fd = eventfd();
    setTimeout(() => fd.write(9), 5);
    expect(await fd.wait()).toBe(9n);
  });

  it('serves several in their order, one value each', async () => {
    const fd = eventfd({ semaphore: true });
    const order: string[] = [];
    const waits = ['a', 'b', 'c'].map((name) => fd.wait().then(() => order.push(name)));
    fd.write(2);
    await Promise.all(waits.slice(0, 2));
    expect(order).toEqual(['a', 'b']);
    fd.write(1);
    await Promise.all(waits);
    expect(order).toEqual(['a', 'b', 'c']);
  });

  it('ends with the reason of an abort, and serves the others', async () => {
    const fd = eventfd();
    const controller = new AbortController();
    const first = fd.wait({ signal: controller.signal });
    const second = fd.wait();
    controller.abort(new Error('enough'));
    await expect(first).rejects.toThrow('enough');
    fd.write(4);
    expect(await second).toBe(4n);
    await expect(fd.wait({ signal: controller.signal })).rejects.toThrow('enough');
  });

  it('ends after its time, and can be called again', async () => {
    const fd = eventfd();
    await expect(fd.wait({ timeoutMs: 5 })).rejects.toMatchObject({ code: 'ERR_KVM_TIMEOUT' });
    fd.write(1);
    expect(await fd.wait({ timeoutMs: 1000 })).toBe(1n);
  });

  it('ends when the eventfd is closed, also when closed by its own reader', async () => {
    const fd = eventfd();
    const waits = [fd.wait(), fd.wait({ timeoutMs: 1000 })];
    fd.close();
    fd.close();
    for (const wait of waits) await expect(wait).rejects.toMatchObject({ code: 'ERR_KVM_CLOSED' });
    await expect(fd.wait()).rejects.toMatchObject({ code: 'ERR_KVM_CLOSED' });
    expect(fd.fd).toBe(-1);
    expect(() => fd.write(1)).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  });
});

describe('for await', () => {
  it('gives each value, and ends at close', async () => {
    const fd = eventfd({ semaphore: true, initial: 3 });
    const values: bigint[] = [];
    for await (const value of fd) {
      values.push(value);
      if (values.length === 3) setTimeout(() => fd.close(), 5);
    }
    expect(values).toEqual([1n, 1n, 1n]);
  });

  it('leaves what it did not take', async () => {
    const fd = eventfd({ semaphore: true, initial: 2 });
    for await (const value of fd) if (value === 1n) break;
    expect(fd.read()).toBe(1n);
  });
});

describe('in another thread', () => {
  it('adopts by token, whatever the first handle does', () => {
    const fd = eventfd();
    const other = Eventfd.adopt(structuredClone(fd.share()));
    onTestFinished(() => other.close());
    fd.write(5);
    fd.close();
    expect(other.read()).toBe(5n);
    expect(() => Eventfd.adopt({} as never)).toThrow(/a token made by eventfd.share/);
  });

  it('wakes one who waits here', async () => {
    const fd = eventfd();
    // By its number: the thread needs nothing of this package to write to a descriptor of this process.
    const source = `require('node:fs').writeSync(${fd.fd}, Buffer.from(new BigUint64Array([6n]).buffer))`;
    const worker = new Worker(source, { eval: true });
    onTestFinished(async () => void (await worker.terminate()));
    expect(await fd.wait({ timeoutMs: 10_000 })).toBe(6n);
  });
});
