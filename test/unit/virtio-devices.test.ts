import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { FileBackend, OverlayBackend, VirtioBlock, VirtioConsole, VirtioVsock } from '../../lib/devices/index.ts';
import type { BlockBackend } from '../../lib/devices/index.ts';
import { Driver } from './virtio-driver.ts';

const scratch = mkdtempSync(join(tmpdir(), 'node-kvm-virtio-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const SIZE = 256 * 1024;
const pattern = (): Buffer => Buffer.from(Array.from({ length: SIZE }, (_, at) => at % 251));

function disk(name: string): string {
  const path = join(scratch, name);
  writeFileSync(path, pattern());
  return path;
}

function request(
  driver: Driver,
  type: number,
  sector: number,
  data: { gpa: number; length: number; write?: boolean }[],
) {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(type, 0);
  header.writeBigUInt64LE(BigInt(sector), 8);
  driver.ram.bytes[0x6000] = 0xee;
  driver.queues[0]!.add(driver.put(0x5000, header), ...data, { gpa: 0x6000, length: 1, write: true });
  driver.notify(0);
}

async function done(driver: Driver): Promise<{ status: number; written: number }> {
  const used = await vi.waitUntil(
    () => {
      const [first] = driver.queues[0]!.takeUsed();
      return first;
    },
    { timeout: 10_000, interval: 1 },
  );
  return { status: driver.ram.bytes[0x6000]!, written: used.written };
}

describe('virtio-blk', () => {
  const backends: [string, () => Promise<BlockBackend>][] = [
    ['on a file', () => FileBackend.open(disk('file'))],
    [
      'on an overlay',
      async () => OverlayBackend.over(await FileBackend.open(disk('base'), { readOnly: true }), scratch),
    ],
  ];

  it.each(backends)('%s reads and writes sectors', async (_name, open) => {
    const backend = await open();
    const driver = new Driver(new VirtioBlock(backend)).start();
    request(driver, 0, 3, [
      { gpa: 0x8000, length: 700, write: true },
      { gpa: 0x9000, length: 324, write: true },
    ]);
    expect(await done(driver)).toEqual({ status: 0, written: 1025 });
    expect(Buffer.concat([driver.get(0x8000, 700), driver.get(0x9000, 324)])).toEqual(pattern().subarray(1536, 2560));

    request(driver, 1, 127, [driver.put(0xa000, new Uint8Array(1024).fill(0x77))]);
    expect(await done(driver)).toEqual({ status: 0, written: 1 });
    request(driver, 0, 126, [{ gpa: 0x8000, length: 2048, write: true }]);
    await done(driver);
    const expected = pattern().subarray(126 * 512, 130 * 512);
    expected.fill(0x77, 512, 1536);
    expect(Buffer.from(driver.get(0x8000, 2048))).toEqual(expected);

    request(driver, 4, 0, []);
    expect(await done(driver)).toEqual({ status: 0, written: 1 });
    await backend.close();
  });

  it('leaves the base of an overlay as it is', async () => {
    const path = disk('untouched');
    const overlay = await OverlayBackend.over(await FileBackend.open(path, { readOnly: true }), scratch);
    await Promise.all(
      Array.from({ length: 40 }, (_, index) => overlay.write(512 * index, [new Uint8Array(512).fill(index)])),
    );
    const back = new Uint8Array(40 * 512);
    await overlay.read(0, [back]);
    expect(back).toEqual(Uint8Array.from({ length: back.length }, (_, at) => at >> 9));
    expect(overlay.changedBytes).toBe(65536);
    await overlay.writeZeroes(0, SIZE);
    await overlay.read(SIZE - 512, [back]);
    expect(back.subarray(0, 512)).toEqual(new Uint8Array(512));
    await overlay.close();
    expect(readFileSync(path)).toEqual(pattern());
  });

  it('zeroes ranges, discards, and names itself', async () => {
    const path = disk('ranges');
    const driver = new Driver(new VirtioBlock(await FileBackend.open(path), { serial: 'disk one' })).start();
    const range = Buffer.alloc(16);
    range.writeBigUInt64LE(2n, 0);
    range.writeUInt32LE(4, 8);
    request(driver, 13, 0, [driver.put(0x7000, range)]);
    expect((await done(driver)).status).toBe(0);
    expect(readFileSync(path).subarray(1024, 3072)).toEqual(Buffer.alloc(2048));
    expect(readFileSync(path).subarray(3072)).toEqual(pattern().subarray(3072));
    request(driver, 11, 0, [driver.put(0x7000, range)]);
    expect((await done(driver)).status).toBe(0);
    request(driver, 8, 0, [{ gpa: 0x8000, length: 20, write: true }]);
    expect(await done(driver)).toEqual({ status: 0, written: 21 });
    expect(Buffer.from(driver.get(0x8000, 20)).toString()).toBe('disk one'.padEnd(20, '\0'));
  });

  it('answers with an error what it cannot do', async () => {
    const driver = new Driver(new VirtioBlock(await FileBackend.open(disk('read-only'), { readOnly: true }))).start();
    const data = { gpa: 0x8000, length: 512 };
    request(driver, 1, 0, [data]);
    expect((await done(driver)).status).toBe(1);
    request(driver, 0, SIZE / 512, [{ ...data, write: true }]);
    expect((await done(driver)).status).toBe(1);
    request(driver, 0, 0, [{ gpa: 0x8000, length: 100, write: true }]);
    expect((await done(driver)).status).toBe(1);
    request(driver, 99, 0, []);
    expect((await done(driver)).status).toBe(2);
    expect(driver.broken).toBeUndefined();
    driver.queues[0]!.add({ gpa: 0x5000, length: 16 });
    driver.notify(0);
    expect(driver.broken?.message).toMatch(/without a header/);
  });

  it('gives nothing back that was in flight at a reset', async () => {
    let finish = (): void => {};
    const slow: BlockBackend = {
      size: 512,
      readOnly: true,
      read: () =>
        new Promise((resolve) => {
          finish = resolve;
        }),
      write: async () => {},
      flush: async () => {},
      discard: async () => {},
      writeZeroes: async () => {},
      close: async () => {},
    };
    const driver = new Driver(new VirtioBlock(slow)).start();
    request(driver, 0, 0, [{ gpa: 0x8000, length: 512, write: true }]);
    driver.write(0x70, 0);
    finish();
    await new Promise((resolve) => setImmediate(resolve));
    expect(driver.queues[0]!.takeUsed()).toEqual([]);
    expect(driver.ram.bytes[0x6000]).toBe(0xee);
  });

  it('needs a file of whole sectors', async () => {
    writeFileSync(join(scratch, 'odd'), 'x');
    await expect(FileBackend.open(join(scratch, 'odd'))).rejects.toMatchObject({ code: 'ERR_KVM_DISK' });
    await expect(FileBackend.open(scratch, { readOnly: true })).rejects.toMatchObject({ code: 'ERR_KVM_DISK' });
    await expect(FileBackend.open(join(scratch, 'none'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('virtio-console', () => {
  const message = (id: number, event: number, value: number): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32LE(id, 0);
    bytes.writeUInt16LE(event, 4);
    bytes.writeUInt16LE(value, 6);
    return bytes;
  };

  it('without ports is a stream both ways', async () => {
    const console = new VirtioConsole();
    const driver = new Driver(console).start();
    driver.queues[0]!.add({ gpa: 0x8000, length: 4, write: true });
    driver.queues[0]!.add({ gpa: 0x8100, length: 64, write: true });
    driver.notify(0);
    console.stream.write('hello guest');
    await vi.waitUntil(() => driver.ram.bytes[0x8106] !== 0);
    expect(driver.queues[0]!.takeUsed().map(({ written }) => written)).toEqual([4, 7]);
    expect(Buffer.concat([driver.get(0x8000, 4), driver.get(0x8100, 7)]).toString()).toBe('hello guest');
    driver.queues[1]!.add(driver.put(0x9000, Buffer.from('hello ')), driver.put(0x9100, Buffer.from('host')));
    driver.notify(1);
    expect(console.stream.read()?.toString()).toBe('hello host');
  });

  it('names its ports to a driver that knows of them', () => {
    const console = new VirtioConsole({ ports: ['agent'], size: { columns: 80, rows: 25 } });
    const driver = new Driver(console).start(2n);
    for (let index = 0; index < 8; index++)
      driver.queues[2]!.add({ gpa: 0x8000 + 0x100 * index, length: 64, write: true });
    const say = (id: number, event: number, value: number): void => {
      driver.queues[3]!.add(driver.put(0x9000, message(id, event, value)));
      driver.notify(3);
    };
    say(0, 0, 1);
    say(0, 3, 1);
    say(1, 3, 1);
    const heard = driver.queues[2]!.takeUsed().map(({ written }, index) =>
      Buffer.from(driver.get(0x8000 + 0x100 * index, written)),
    );
    expect(heard.slice(0, 2)).toEqual([message(0, 1, 1), message(1, 1, 1)]);
    expect(heard[2]).toEqual(message(0, 4, 1));
    expect(heard[5]).toEqual(Buffer.concat([message(1, 7, 1), Buffer.from('agent')]));
    expect(heard[6]).toEqual(message(1, 6, 1));
    driver.queues[5]!.add(driver.put(0xa000, Buffer.from('ready')));
    driver.notify(5);
    expect(console.port('agent').read()?.toString()).toBe('ready');
    expect(() => console.port('none')).toThrow(/Expected one of agent/);
  });

  it('holds back a guest whose output nobody reads', () => {
    const console = new VirtioConsole();
    const driver = new Driver(console).start();
    for (let index = 0; index < 8; index++) driver.queues[1]!.add({ gpa: 0x10000, length: 32768 });
    driver.notify(1);
    const taken = driver.queues[1]!.takeUsed().length;
    expect(taken).toBeLessThan(4);
    console.stream.read();
    console.stream.read();
    expect(driver.queues[1]!.takeUsed().length).toBeGreaterThan(0);
  });
});

describe('virtio-vsock', () => {
  const packet = (
    op: number,
    from: number,
    to: number,
    payload = Buffer.alloc(0),
    credit = 65536,
    forwarded = 0,
  ): Buffer => {
    const bytes = Buffer.alloc(44 + payload.byteLength);
    bytes.writeBigUInt64LE(3n, 0);
    bytes.writeBigUInt64LE(2n, 8);
    bytes.writeUInt32LE(from, 16);
    bytes.writeUInt32LE(to, 20);
    bytes.writeUInt32LE(payload.byteLength, 24);
    bytes.writeUInt16LE(1, 28);
    bytes.writeUInt16LE(op, 30);
    bytes.writeUInt32LE(credit, 36);
    bytes.writeUInt32LE(forwarded, 40);
    bytes.set(payload, 44);
    return bytes;
  };

  function guest() {
    const vsock = new VirtioVsock();
    const driver = new Driver(vsock).start();
    let slot = 0;
    const give = (): void => {
      driver.queues[0]!.add({ gpa: 0x10000 + 0x1000 * (slot++ % 8), length: 0x1000, write: true });
    };
    for (let index = 0; index < 8; index++) give();
    let read = 0;
    const heard = (): { op: number; from: number; to: number; payload: string }[] =>
      driver.queues[0]!.takeUsed().map(({ written }) => {
        const bytes = Buffer.from(driver.get(0x10000 + 0x1000 * (read++ % 8), written));
        give();
        return {
          op: bytes.readUInt16LE(30),
          from: bytes.readUInt32LE(16),
          to: bytes.readUInt32LE(20),
          payload: bytes.subarray(44).toString(),
        };
      });
    const say = (bytes: Buffer): void => {
      driver.queues[1]!.add(driver.put(0x20000, bytes));
      driver.notify(1);
      driver.queues[1]!.takeUsed();
    };
    return { vsock, driver, heard, say };
  }

  it('takes connections of the guest', async () => {
    const { vsock, heard, say } = guest();
    vsock.listen(1234, (socket) => socket.on('data', (data: Buffer) => socket.write(`echo ${data.toString()}`)));
    say(packet(1, 5000, 1234));
    expect(heard()).toEqual([{ op: 2, from: 1234, to: 5000, payload: '' }]);
    say(packet(5, 5000, 1234, Buffer.from('hello')));
    expect(await vi.waitUntil(() => heard().find(({ op }) => op === 5))).toEqual({
      op: 5,
      from: 1234,
      to: 5000,
      payload: 'echo hello',
    });
    say(packet(1, 5000, 99));
    expect(heard()).toEqual([{ op: 3, from: 99, to: 5000, payload: '' }]);
  });

  it('connects to the guest, and is refused where nobody listens', async () => {
    const { vsock, heard, say } = guest();
    const connecting = vsock.connect(7);
    const [request] = heard();
    expect(request).toMatchObject({ op: 1, to: 7 });
    say(packet(2, 7, request!.from));
    const socket = await connecting;
    socket.write('hi');
    expect(await vi.waitUntil(() => heard()[0])).toMatchObject({ op: 5, payload: 'hi' });
    socket.end();
    expect(await vi.waitUntil(() => heard()[0])).toMatchObject({ op: 4 });
    const refused = vsock.connect(8);
    say(packet(3, 8, heard()[0]!.from));
    await expect(refused).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  it('sends no more than the guest has room for', async () => {
    const { vsock, heard, say } = guest();
    vsock.listen(1, (socket) => socket.write('0123456789'));
    say(packet(1, 5000, 1, undefined, 4));
    await vi.waitUntil(() => true);
    const sent = () =>
      heard()
        .filter(({ op }) => op === 5)
        .map(({ payload }) => payload)
        .join('');
    expect(sent()).toBe('0123');
    say(packet(6, 5000, 1, undefined, 4, 3));
    expect(sent()).toBe('456');
    say(packet(6, 5000, 1, undefined, 64, 7));
    expect(sent()).toBe('789');
  });

  it('ends both ways in order, and with an error at a reset', async () => {
    const { vsock, driver, heard, say } = guest();
    const ended: (string | undefined)[] = [];
    vsock.listen(1, (socket) => {
      socket.on('error', (error: NodeJS.ErrnoException) => ended.push(error.code));
      socket.on('end', () => ended.push('end'));
      socket.resume();
    });
    say(packet(1, 5000, 1));
    const shutdown = packet(4, 5000, 1);
    shutdown.writeUInt32LE(3, 32);
    say(shutdown);
    await vi.waitUntil(() => ended.length === 1);
    expect(heard().at(-1)).toMatchObject({ op: 3 });
    say(packet(1, 5001, 1));
    const waiting = vsock.connect(9);
    driver.write(0x70, 0);
    await expect(waiting).rejects.toMatchObject({ code: 'ECONNRESET' });
    await vi.waitUntil(() => ended.length === 2);
    expect(ended).toEqual(['end', 'ECONNRESET']);
    await expect(vsock.connect(9)).rejects.toMatchObject({ code: 'ERR_KVM_STATE' });
  });

  it('resets a guest that sends more than it had credit for', async () => {
    const { vsock, driver, heard, say } = guest();
    let error: NodeJS.ErrnoException | undefined;
    vsock.listen(1, (socket) =>
      socket.on('error', (reason: NodeJS.ErrnoException) => {
        error = reason;
      }),
    );
    say(packet(1, 5000, 1));
    // As much as the stream takes, as much again as it had credit for, and one more.
    for (let count = 0; count < 17; count++) say(packet(5, 5000, 1, Buffer.alloc(32768)));
    await vi.waitUntil(() => error !== undefined);
    expect(error?.code).toBe('ECONNRESET');
    expect(heard().map(({ op }) => op)).toContain(3);
    expect(driver.broken).toBeUndefined();
  });
});
