/** What a kind of virtio device adds to the transport. */
import type { DeviceMemory } from '../ports.ts';
import { VirtioError } from './error.ts';
import type { Virtqueue } from './queue.ts';

/** What a device may do to its guest while it is active. */
export interface VirtioHost {
  readonly memory: DeviceMemory;
  /** Interrupts the guest if it wants that for what was given back in a queue. */
  signal(queue: Virtqueue): void;
  /** Says that the configuration has changed. */
  configChanged(): void;
  /** The driver broke a rule: the device asks to be reset, and says why to whoever listens. */
  broken(error: VirtioError): void;
}

/** A virtio device of one kind (virtio 1.2, chapter 5). */
export abstract class VirtioDevice {
  abstract readonly name: string;
  /** Device id of the specification: 2 is block. */
  abstract readonly id: number;
  /** Features of this kind; those of the rings come from the transport. */
  abstract readonly features: bigint;
  /** How many entries each queue may have at most, each a power of two. */
  abstract readonly queueSizes: readonly number[];

  protected host: VirtioHost | undefined;
  protected queues: readonly (Virtqueue | undefined)[] = [];
  /** Features that device and driver agreed on. */
  protected agreed = 0n;

  /** The configuration space as it is now. */
  abstract config(): Uint8Array;

  /** The driver writes to the configuration space. Default: nothing there is to be written. */
  writeConfig(_offset: number, _data: Uint8Array): void {}

  /** The driver is ready; queues that it did not set up are undefined. */
  activate(host: VirtioHost, queues: readonly (Virtqueue | undefined)[], features: bigint): void {
    this.host = host;
    this.queues = queues;
    this.agreed = features;
    this.activated();
  }

  /** Forgets the driver. What is in flight must not reach guest memory afterwards. */
  reset(): void {
    this.host = undefined;
    this.queues = [];
    this.deactivated();
  }

  /** The driver notified a queue. */
  notify(index: number): void {
    const queue = this.queues[index];
    if (queue === undefined || this.host === undefined) return;
    this.guard(() => this.handle(index, queue));
  }

  /** Runs what reads rings: a broken rule stops the device and nothing else. */
  protected guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      if (!(error instanceof VirtioError)) throw error;
      const { host } = this;
      this.queues = [];
      this.host = undefined;
      this.deactivated();
      host?.broken(error);
    }
  }

  /** There may be requests in a queue. */
  protected abstract handle(index: number, queue: Virtqueue): void;
  protected activated(): void {}
  protected deactivated(): void {}
}
