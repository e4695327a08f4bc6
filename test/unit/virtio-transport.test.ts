import { describe, expect, it } from 'vitest';
import { VirtioRng } from '../../lib/devices/index.ts';
import { Driver, EVENT_INDEX, INDIRECT, PlainRam } from './virtio-driver.ts';

const counting = () => new VirtioRng({ source: (view) => view.fill(0x5a) });

describe('virtio over MMIO', () => {
  it('is known by its magic number, version and ids', () => {
    const driver = new Driver(counting());
    expect([driver.read(0), driver.read(4), driver.read(8)]).toEqual([0x74726976, 2, 4]);
    expect(driver.read(0x34)).toBe(64);
    driver.write(0x30, 1);
    expect(driver.read(0x34)).toBe(0);
  });

  it('refuses features that it did not offer, and a driver without VERSION_1', () => {
    const driver = new Driver(counting());
    expect(driver.offered()).toBe((1n << 32n) | INDIRECT | EVENT_INDEX);
    expect(driver.agree((1n << 32n) | (1n << 5n))).toBe(false);
    expect(driver.agree(INDIRECT)).toBe(false);
    expect(driver.agree((1n << 32n) | INDIRECT)).toBe(true);
  });

  it('serves requests, and gives them back with what was written', () => {
    const driver = new Driver(counting()).start();
    const head = driver.queues[0]!.add(
      { gpa: 0x8000, length: 100, write: true },
      { gpa: 0x9000, length: 20, write: true },
    );
    driver.notify(0);
    expect(driver.queues[0]!.takeUsed()).toEqual([{ head, written: 120 }]);
    expect(driver.get(0x8000, 101)).toEqual(Uint8Array.from([...new Array<number>(100).fill(0x5a), 0]));
    expect(driver.interrupts).toBe(1);
    expect(driver.read(0x60)).toBe(1);
    driver.write(0x64, 1);
    expect(driver.read(0x60)).toBe(0);
  });

  it('reaches a buffer over the border of two regions, and rings that wrap round', () => {
    const driver = new Driver(counting(), new PlainRam(1 << 20, 0x8010)).start(0n, 4);
    for (let round = 0; round < 70_000; round += 1) {
      const head = driver.queues[0]!.add({ gpa: 0x8000, length: 32, write: true });
      driver.notify(0);
      expect(driver.queues[0]!.takeUsed()).toEqual([{ head, written: 32 }]);
    }
    expect(driver.get(0x8000, 32)).toEqual(new Uint8Array(32).fill(0x5a));
  });

  it('takes indirect tables once they are agreed on', () => {
    const driver = new Driver(counting()).start(INDIRECT);
    driver.queues[0]!.addIndirect(
      0x7000,
      { gpa: 0x8000, length: 8, write: true },
      { gpa: 0x8100, length: 8, write: true },
    );
    driver.notify(0);
    expect(driver.queues[0]!.takeUsed()).toEqual([{ head: 0, written: 16 }]);
    const without = new Driver(counting()).start();
    without.queues[0]!.addIndirect(0x7000, { gpa: 0x8000, length: 8, write: true });
    without.notify(0);
    expect(without.broken?.message).toMatch(/not negotiated/);
  });

  it('interrupts as the driver asked: never, or at an index', () => {
    const silent = new Driver(counting()).start();
    silent.ram.view.setUint16(silent.queues[0]!.available, 1, true);
    silent.queues[0]!.add({ gpa: 0x8000, length: 8, write: true });
    silent.notify(0);
    expect([silent.queues[0]!.takeUsed().length, silent.interrupts]).toEqual([1, 0]);

    const indexed = new Driver(counting()).start(EVENT_INDEX);
    indexed.queues[0]!.usedEvent = 2;
    for (let count = 1; count <= 5; count++) {
      indexed.queues[0]!.add({ gpa: 0x8000, length: 8, write: true });
      indexed.notify(0);
      expect(indexed.interrupts).toBe(count < 3 ? 0 : 1);
      expect(indexed.queues[0]!.availableEvent).toBe(count);
    }
  });

  it('changes nothing of a queue that is ready, and forgets all at reset', () => {
    const driver = new Driver(counting()).start();
    driver.write(0x30, 0);
    driver.write(0x38, 2);
    driver.queues[0]!.add({ gpa: 0x8000, length: 8, write: true });
    driver.write(0x70, 0);
    driver.notify(0);
    expect(driver.queues[0]!.takeUsed()).toEqual([]);
    expect(driver.read(0x44)).toBe(0);
  });
});

describe('a driver that breaks the rules stops its device, which says so', () => {
  const rules: [string, RegExp, (driver: Driver) => void][] = [
    [
      'a chain in a circle',
      /circle/,
      ({ queues: [queue] }) => {
        queue!.describe(queue!.table, { gpa: 0x8000, length: 4 }, 1, 1);
        queue!.describe(queue!.table + 16, { gpa: 0x8000, length: 4 }, 1, 0);
        queue!.offer(0);
      },
    ],
    ['a head beyond the table', /not in a table of 16/, ({ queues: [queue] }) => queue!.offer(16)],
    [
      'a next one beyond the table',
      /not in a table of 16/,
      ({ queues: [queue] }) => {
        queue!.describe(queue!.table, { gpa: 0x8000, length: 4 }, 1, 999);
        queue!.offer(0);
      },
    ],
    [
      'a buffer outside memory',
      /not in guest memory/,
      ({ queues: [queue] }) => void queue!.add({ gpa: (1 << 20) - 4, length: 8, write: true }),
    ],
    [
      'an address beyond 52 bits',
      /beyond 52 bits/,
      ({ queues: [queue], ram }) => {
        queue!.add({ gpa: 0, length: 8, write: true });
        ram.view.setBigUint64(queue!.table, 0xffff_ffff_ffff_f000n, true);
      },
    ],
    [
      'a readable buffer after a writable one',
      /readable buffer after/,
      ({ queues: [queue] }) => void queue!.add({ gpa: 0x8000, length: 8, write: true }, { gpa: 0x8100, length: 8 }),
    ],
    [
      'more requests than entries',
      /requests in a queue of 16/,
      ({ queues: [queue], ram }) => ram.view.setUint16(queue!.available + 2, 17, true),
    ],
    [
      'an indirect table of no whole entries',
      /indirect table of 17 bytes/,
      ({ queues: [queue] }) => {
        queue!.describe(queue!.table, { gpa: 0x7000, length: 17 }, 4);
        queue!.offer(0);
      },
    ],
    [
      'an indirect descriptor in an indirect table',
      /within a chain/,
      ({ queues: [queue] }) => {
        queue!.addIndirect(0x7000, { gpa: 0x8000, length: 16 });
        queue!.describe(0x7000, { gpa: 0x8000, length: 16 }, 4);
      },
    ],
  ];

  it.each(rules)('%s', (_name, message, break_) => {
    const driver = new Driver(counting()).start(INDIRECT);
    break_(driver);
    driver.notify(0);
    expect(driver.broken).toMatchObject({ code: 'ERR_KVM_VIRTIO', message: expect.stringMatching(message) as string });
    expect(driver.read(0x70) & 0x40).toBe(0x40);
    expect(driver.read(0x60) & 2).toBe(2);
    // Nothing more happens until a reset, and then all is well again.
    driver.notify(0);
    driver.ram.bytes.fill(0);
    driver.start(INDIRECT);
    driver.queues[0]!.add({ gpa: 0x8000, length: 8, write: true });
    driver.notify(0);
    expect(driver.queues[0]!.takeUsed()).toHaveLength(1);
  });

  it.each([
    ['misaligned', 0x1001, 16],
    ['outside memory', 1 << 20, 16],
    ['of no power of two', 0x1000, 12],
    ['too large', 0x1000, 128],
  ])('a queue %s', (_name, base, size) => {
    const driver = new Driver(counting());
    driver.agree(1n << 32n);
    driver.setUpQueue(0, size, base);
    driver.write(0x70, 0xf);
    expect(driver.broken).toMatchObject({ code: 'ERR_KVM_VIRTIO' });
  });
});
