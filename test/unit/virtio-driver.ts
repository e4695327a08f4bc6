/** The guest's side of virtio on a plain buffer: registers, rings and descriptors written as a driver writes them. */
import type { DeviceMemory, VirtioDevice } from '../../lib/devices/index.ts';
import { VirtioMmio } from '../../lib/devices/index.ts';

const VERSION_1 = 1n << 32n;
export const INDIRECT = 1n << 28n;
export const EVENT_INDEX = 1n << 29n;

/** RAM from address 0 on, as one view or cut in two at `cut`. */
export class PlainRam implements DeviceMemory {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly #cut: number;

  constructor(size = 1 << 20, cut = size) {
    this.bytes = new Uint8Array(size);
    this.view = new DataView(this.bytes.buffer);
    this.#cut = cut;
  }

  views(gpa: number, size: number): Uint8Array[] | undefined {
    const end = gpa + size;
    if (end > this.bytes.byteLength) return undefined;
    if (gpa < this.#cut && end > this.#cut)
      return [this.bytes.subarray(gpa, this.#cut), this.bytes.subarray(this.#cut, end)];
    return [this.bytes.subarray(gpa, end)];
  }
}

export interface Buffer {
  readonly gpa: number;
  readonly length: number;
  readonly write?: boolean;
}

/** A queue as its driver sees it. */
export class DriverQueue {
  readonly ram: PlainRam;
  readonly size: number;
  readonly table: number;
  readonly available: number;
  readonly used: number;
  #next = 0;
  #free = 0;
  #seen = 0;

  constructor(ram: PlainRam, base: number, size: number) {
    this.ram = ram;
    this.size = size;
    this.table = base;
    this.available = base + 16 * size;
    this.used = (this.available + 6 + 2 * size + 3) & ~3;
  }

  describe(at: number, { gpa, length, write = false }: Buffer, flags = 0, next = 0): void {
    const { view } = this.ram;
    view.setBigUint64(at, BigInt(gpa), true);
    view.setUint32(at + 8, length, true);
    view.setUint16(at + 12, flags | (write ? 2 : 0), true);
    view.setUint16(at + 14, next, true);
  }

  /** Makes a request of buffers in a chain. @returns its head */
  add(...buffers: Buffer[]): number {
    const head = this.#free;
    buffers.forEach((buffer, index) => {
      const slot = (head + index) % this.size;
      const last = index === buffers.length - 1;
      this.describe(this.table + 16 * slot, buffer, last ? 0 : 1, (slot + 1) % this.size);
    });
    this.#free = (head + buffers.length) % this.size;
    this.offer(head);
    return head;
  }

  /** The same by an indirect table at `gpa`. */
  addIndirect(gpa: number, ...buffers: Buffer[]): number {
    buffers.forEach((buffer, index) =>
      this.describe(gpa + 16 * index, buffer, index === buffers.length - 1 ? 0 : 1, index + 1),
    );
    const head = this.#free;
    this.#free = (head + 1) % this.size;
    this.describe(this.table + 16 * head, { gpa, length: 16 * buffers.length }, 4);
    this.offer(head);
    return head;
  }

  offer(head: number): void {
    const { view } = this.ram;
    view.setUint16(this.available + 4 + 2 * (this.#next % this.size), head, true);
    this.#next = (this.#next + 1) & 0xffff;
    view.setUint16(this.available + 2, this.#next, true);
  }

  /** What the device has given back since the last time. */
  takeUsed(): { head: number; written: number }[] {
    const { view } = this.ram;
    const done: { head: number; written: number }[] = [];
    for (; this.#seen !== view.getUint16(this.used + 2, true); this.#seen = (this.#seen + 1) & 0xffff) {
      const at = this.used + 4 + 8 * (this.#seen % this.size);
      done.push({ head: view.getUint32(at, true), written: view.getUint32(at + 4, true) });
    }
    return done;
  }

  set usedEvent(index: number) {
    this.ram.view.setUint16(this.available + 4 + 2 * this.size, index, true);
  }

  get availableEvent(): number {
    return this.ram.view.getUint16(this.used + 4 + 8 * this.size, true);
  }
}

/** A device behind its registers, with a driver that sets it up. */
export class Driver {
  readonly ram: PlainRam;
  readonly mmio: VirtioMmio;
  interrupts = 0;
  broken: Error | undefined;
  queues: DriverQueue[] = [];

  constructor(device: VirtioDevice, ram = new PlainRam()) {
    this.ram = ram;
    this.mmio = new VirtioMmio(device, {
      memory: ram,
      line: {
        set: (level) => {
          if (level) this.interrupts++;
        },
      },
      onBroken: (error) => {
        this.broken = error;
      },
    });
  }

  read(offset: number): number {
    const data = new Uint8Array(4);
    this.mmio.readMmio(offset, data);
    return new DataView(data.buffer).getUint32(0, true);
  }

  write(offset: number, value: number): void {
    const data = new Uint8Array(4);
    new DataView(data.buffer).setUint32(0, value >>> 0, true);
    this.mmio.writeMmio(offset, data);
  }

  offered(): bigint {
    this.write(0x14, 1);
    const high = this.read(0x10);
    this.write(0x14, 0);
    return (BigInt(high) << 32n) | BigInt(this.read(0x10));
  }

  agree(features: bigint): boolean {
    this.write(0x70, 0);
    this.write(0x70, 3);
    this.write(0x24, 0);
    this.write(0x20, Number(features & 0xffff_ffffn));
    this.write(0x24, 1);
    this.write(0x20, Number(features >> 32n));
    this.write(0x70, 0xb);
    return (this.read(0x70) & 8) !== 0;
  }

  setUpQueue(index: number, size: number, base: number): DriverQueue {
    const queue = new DriverQueue(this.ram, base, size);
    this.write(0x30, index);
    this.write(0x38, size);
    [
      [0x80, queue.table],
      [0x90, queue.available],
      [0xa0, queue.used],
    ].forEach(([register, address]) => {
      this.write(register!, address!);
      this.write(register! + 4, 0);
    });
    this.write(0x44, 1);
    return queue;
  }

  /** Everything from reset to DRIVER_OK, with queues of `size` entries from 0x1000 on, one every 0x1000. */
  start(features = 0n, size = 16): this {
    if (!this.agree(features | VERSION_1)) throw new Error('the features were refused');
    this.queues = this.mmio.device.queueSizes.map((_size, index) =>
      this.setUpQueue(index, size, 0x1000 + 0x1000 * index),
    );
    this.write(0x70, 0xf);
    return this;
  }

  notify(queue: number): void {
    this.write(0x50, queue);
  }

  /** Puts bytes into RAM and says where. */
  put(gpa: number, bytes: Uint8Array): Buffer {
    this.ram.bytes.set(bytes, gpa);
    return { gpa, length: bytes.byteLength };
  }

  get(gpa: number, length: number): Uint8Array {
    return this.ram.bytes.slice(gpa, gpa + length);
  }
}
