/** One port of a virtio console: a stream on the host, two queues in the guest. */
import { Duplex } from 'node:stream';
import { copyInto } from '../virtio/chain.ts';
import { drainInto } from '../virtio/output.ts';
import type { Virtqueue } from '../virtio/queue.ts';

const BUFFERED = 65536;

/**
 * What the guest writes to the port is read from {@link stream}; what is written there arrives in the guest once it
 * gives a buffer to take it. Both directions hold back their writer.
 */
export class ConsolePort {
  readonly name: string;
  readonly stream: Duplex;
  readonly #signal: (queue: Virtqueue) => void;
  #receive: Virtqueue | undefined;
  #transmit: Virtqueue | undefined;
  #pending: { bytes: Uint8Array; done: () => void } | undefined;
  #full = false;
  /** Whether the guest has the port open; what is written before that would be lost, so it waits. */
  #open = false;
  readonly #guard: (work: () => void) => void;

  constructor(name: string, signal: (queue: Virtqueue) => void, guard: (work: () => void) => void) {
    this.name = name;
    this.#signal = signal;
    this.#guard = guard;
    this.stream = new Duplex({
      readableHighWaterMark: BUFFERED,
      writableHighWaterMark: BUFFERED,
      read: () => this.#resume(),
      write: (chunk: Buffer, _encoding, done) => {
        this.#pending = { bytes: chunk, done };
        this.#guard(() => this.feed());
      },
    });
  }

  /** Connects the port to the queues of a driver that is ready. */
  attach(receive: Virtqueue | undefined, transmit: Virtqueue | undefined, open: boolean): void {
    this.#receive = receive;
    this.#transmit = transmit;
    this.setOpen(open);
  }

  detach(): void {
    this.#receive = this.#transmit = undefined;
    this.#open = this.#full = false;
  }

  setOpen(open: boolean): void {
    this.#open = open;
    if (open) this.feed();
  }

  /** The guest sent something. */
  drain(): void {
    const queue = this.#transmit;
    if (queue === undefined || this.#full) return;
    this.#full = drainInto(queue, this.stream);
    this.#signal(queue);
  }

  /** The guest has given buffers, or there is something new for it. */
  feed(): void {
    const queue = this.#receive;
    if (queue === undefined || !this.#open) return;
    for (let pending = this.#pending; pending !== undefined; pending = this.#pending) {
      const chain = queue.pop();
      if (chain === undefined) {
        if (queue.drained()) break;
        continue;
      }
      const written = copyInto(chain.writable, pending.bytes);
      queue.push(chain, written);
      if (written === pending.bytes.byteLength) {
        this.#pending = undefined;
        // Not at once: the stream may hand over its next chunk from within, while this loop still runs.
        process.nextTick(pending.done);
      } else {
        this.#pending = { bytes: pending.bytes.subarray(written), done: pending.done };
      }
    }
    this.#signal(queue);
  }

  #resume(): void {
    if (!this.#full) return;
    this.#full = false;
    this.#guard(() => this.drain());
  }
}
