/** A split virtqueue as its device sees it (virtio 1.2, 2.7). */
import type { DeviceMemory } from '../ports.ts';
import { ChainReader, fieldsOf } from './chain.ts';
import type { DescriptorChain } from './chain.ts';
import { VirtioError } from './error.ts';
import { fence } from './fence.ts';

export const FEATURE_INDIRECT = 1n << 28n;
export const FEATURE_EVENT_INDEX = 1n << 29n;

const NO_INTERRUPT = 1;
const NO_NOTIFY = 1;

export interface QueueAddresses {
  /** A power of two, at most 32768. */
  readonly size: number;
  readonly descriptors: number;
  readonly driver: number;
  readonly device: number;
}

/** The queue's rings are live guest memory; every index that comes out of them is checked before use. */
export class Virtqueue {
  readonly size: number;
  readonly #reader: ChainReader;
  readonly #available: DataView;
  readonly #used: DataView;
  readonly #eventIndex: boolean;
  #lastAvailable = 0;
  #nextUsed = 0;
  #signalled = 0;
  #outstanding = 0;

  /** @throws VirtioError where a ring is misaligned or not in guest memory. */
  constructor(memory: DeviceMemory, { size, descriptors, driver, device }: QueueAddresses, features: bigint) {
    const area = (what: string, address: number, bytes: number, align: number): DataView => {
      if (address % align !== 0)
        throw new VirtioError(`the ${what} at 0x${address.toString(16)} is not aligned to ${align} bytes`);
      const views = memory.views(address, bytes);
      if (views?.length !== 1)
        throw new VirtioError(`the ${what} of ${bytes} bytes at 0x${address.toString(16)} is not in guest memory`);
      return fieldsOf(views[0]!);
    };
    if (size < 1 || size > 32768 || (size & (size - 1)) !== 0) throw new VirtioError(`a queue of ${size} entries`);
    this.size = size;
    this.#eventIndex = (features & FEATURE_EVENT_INDEX) !== 0n;
    const table = area('descriptor table', descriptors, 16 * size, 16);
    this.#reader = new ChainReader(memory, table, size, (features & FEATURE_INDIRECT) !== 0n);
    this.#available = area('driver area', driver, 6 + 2 * size, 2);
    this.#used = area('device area', device, 6 + 8 * size, 4);
  }

  /** How many requests the driver has made that were not taken yet. */
  get waiting(): number {
    const waiting = (this.#available.getUint16(2, true) - this.#lastAvailable) & 0xffff;
    if (waiting > this.size) throw new VirtioError(`${waiting} requests in a queue of ${this.size}`);
    return waiting;
  }

  /** Takes the next request, or says that there is none. Ask {@link drained} before going to sleep. */
  pop(): DescriptorChain | undefined {
    if (this.waiting === 0) return undefined;
    if (this.#outstanding >= this.size) throw new VirtioError(`more requests than the queue's ${this.size} entries`);
    const head = this.#available.getUint16(4 + 2 * (this.#lastAvailable & (this.size - 1)), true);
    const chain = this.#reader.read(head);
    this.#lastAvailable = (this.#lastAvailable + 1) & 0xffff;
    this.#outstanding++;
    return chain;
  }

  /** Asks for a notification with the next request, and says whether there is none already. */
  drained(): boolean {
    if (this.#eventIndex) this.#used.setUint16(4 + 8 * this.size, this.#lastAvailable, true);
    else this.#used.setUint16(0, 0, true);
    fence();
    return this.waiting === 0;
  }

  /** Tells the driver that no notification is wanted for now: the queue is being looked at anyway. */
  quiet(): void {
    if (!this.#eventIndex) this.#used.setUint16(0, NO_NOTIFY, true);
  }

  /** Gives a request back. @param written bytes that were written, from the first writable one on */
  push({ head }: DescriptorChain, written: number): void {
    const at = 4 + 8 * (this.#nextUsed & (this.size - 1));
    this.#used.setUint32(at, head, true);
    this.#used.setUint32(at + 4, written, true);
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#outstanding--;
    // After the element: x86 shows stores in their order.
    this.#used.setUint16(2, this.#nextUsed, true);
  }

  /** Whether the driver wants an interrupt for what was given back since the last time that this was asked. */
  interruptWanted(): boolean {
    const [before, now] = [this.#signalled, this.#nextUsed];
    if (before === now) return false;
    fence();
    this.#signalled = now;
    if (!this.#eventIndex) return (this.#available.getUint16(0, true) & NO_INTERRUPT) === 0;
    const event = this.#available.getUint16(4 + 2 * this.size, true);
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }
}
