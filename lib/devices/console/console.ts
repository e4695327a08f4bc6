/** virtio-console with any number of named ports (virtio 1.2, 5.3). */
import type { Duplex } from 'node:stream';
import { copyInto, copyOf, fieldsOf } from '../virtio/chain.ts';
import { VirtioDevice } from '../virtio/device.ts';
import type { Virtqueue } from '../virtio/queue.ts';
import { ConsolePort } from './console-port.ts';

const FEATURE_SIZE = 1n << 0n;
const FEATURE_MULTIPORT = 1n << 1n;

const CONTROL_RECEIVE = 2;
const CONTROL_TRANSMIT = 3;
const CONTROL_SIZE = 8;

const DEVICE_READY = 0;
const PORT_ADD = 1;
const PORT_READY = 3;
const CONSOLE_PORT = 4;
const RESIZE = 5;
const PORT_OPEN = 6;
const PORT_NAME = 7;

const QUEUE_SIZE = 128;
const MAX_PORTS = 31;
/** Control messages that wait for a buffer; a guest that gives none loses what comes after. */
const MAX_WAITING = 256;

export interface VirtioConsoleOptions {
  /** Names of the ports after the first, which is the console: /dev/virtio-ports/NAME in Linux. Default: none. */
  readonly ports?: readonly string[];
  /** Characters. Default: not told. */
  readonly size?: { readonly columns: number; readonly rows: number };
}

export class VirtioConsole extends VirtioDevice {
  readonly name = 'virtio-console';
  readonly id = 3;
  readonly features = FEATURE_SIZE | FEATURE_MULTIPORT;
  readonly queueSizes: readonly number[];
  readonly #ports: readonly ConsolePort[];
  #size: { readonly columns: number; readonly rows: number };
  #waiting: Uint8Array[] = [];

  constructor({ ports = [], size = { columns: 0, rows: 0 } }: VirtioConsoleOptions = {}) {
    super();
    if (ports.length >= MAX_PORTS)
      throw new RangeError(`Expected at most ${MAX_PORTS - 1} ports but received ${ports.length}`);
    this.#size = size;
    this.#ports = ['', ...ports].map(
      (name) =>
        new ConsolePort(
          name,
          (queue) => this.host?.signal(queue),
          (work) => this.guard(work),
        ),
    );
    // Two queues a port, and two for control after those of the first.
    this.queueSizes = Array.from({ length: 2 * this.#ports.length + 2 }, () => QUEUE_SIZE);
  }

  /** The console's other end. */
  get stream(): Duplex {
    return this.#ports[0]!.stream;
  }

  /** The other end of a port by its name. @throws RangeError where there is none of that name. */
  port(name: string): Duplex {
    const port = this.#ports.find((one, index) => index > 0 && one.name === name);
    if (port !== undefined) return port.stream;
    throw new RangeError(
      `Expected one of ${
        this.#ports
          .slice(1)
          .map((one) => one.name)
          .join(', ') || '(no ports)'
      } for name but received ${name}`,
    );
  }

  /** Tells the guest how large the terminal is. */
  resize(columns: number, rows: number): void {
    this.#size = { columns, rows };
    if (!this.#multiport) this.host?.configChanged();
    else this.guard(() => this.#send(message(0, RESIZE, 0, sizeBytes(rows, columns))));
  }

  config(): Uint8Array {
    const bytes = new Uint8Array(12);
    const view = fieldsOf(bytes);
    view.setUint16(0, this.#size.columns, true);
    view.setUint16(2, this.#size.rows, true);
    view.setUint32(4, this.#ports.length, true);
    return bytes;
  }

  protected override activated(): void {
    this.#waiting = [];
    // Without ports of their own, the two first queues are the console, and it is open.
    this.#ports.forEach((port, index) => {
      const [receive, transmit] = queuesOf(index);
      port.attach(this.queues[receive], this.queues[transmit], !this.#multiport && index === 0);
    });
  }

  protected override deactivated(): void {
    this.#waiting = [];
    for (const port of this.#ports) port.detach();
  }

  protected handle(index: number, queue: Virtqueue): void {
    if (index === CONTROL_RECEIVE) this.#flush();
    else if (index === CONTROL_TRANSMIT) this.#control(queue);
    else {
      const number = index < CONTROL_RECEIVE ? 0 : (index >> 1) - 1;
      if ((index & 1) === 0) this.#ports[number]?.feed();
      else this.#ports[number]?.drain();
    }
  }

  get #multiport(): boolean {
    return (this.agreed & FEATURE_MULTIPORT) !== 0n;
  }

  #control(queue: Virtqueue): void {
    do {
      for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) {
        const bytes = copyOf(chain.readable, Math.min(chain.readableSize, CONTROL_SIZE));
        queue.push(chain, 0);
        if (bytes.byteLength === CONTROL_SIZE) this.#answer(fieldsOf(bytes));
      }
    } while (!queue.drained());
    this.host?.signal(queue);
  }

  #answer(received: DataView): void {
    const [id, event, value] = [received.getUint32(0, true), received.getUint16(4, true), received.getUint16(6, true)];
    if (event === DEVICE_READY && value === 1) {
      this.#ports.forEach((_port, index) => this.#send(message(index, PORT_ADD, 1)));
      return;
    }
    const port = this.#ports[id];
    if (port === undefined) return;
    if (event === PORT_READY && value === 1) {
      if (id === 0) {
        this.#send(message(0, CONSOLE_PORT, 1));
        if (this.#size.columns > 0) this.#send(message(0, RESIZE, 0, sizeBytes(this.#size.rows, this.#size.columns)));
      } else {
        this.#send(message(id, PORT_NAME, 1, Buffer.from(port.name)));
      }
      this.#send(message(id, PORT_OPEN, 1));
    } else if (event === PORT_OPEN) {
      port.setOpen(value === 1);
    }
  }

  #send(bytes: Uint8Array): void {
    if (this.#waiting.length < MAX_WAITING) this.#waiting.push(bytes);
    this.#flush();
  }

  #flush(): void {
    const queue = this.queues[CONTROL_RECEIVE];
    if (queue === undefined) return;
    while (this.#waiting.length > 0) {
      const chain = queue.pop();
      if (chain === undefined) {
        if (queue.drained()) break;
        continue;
      }
      queue.push(chain, copyInto(chain.writable, this.#waiting.shift()!));
    }
    this.host?.signal(queue);
  }
}

function queuesOf(port: number): [receive: number, transmit: number] {
  return port === 0 ? [0, 1] : [2 * port + 2, 2 * port + 3];
}

function message(id: number, event: number, value: number, rest: Uint8Array = new Uint8Array()): Uint8Array {
  const bytes = new Uint8Array(CONTROL_SIZE + rest.byteLength);
  const view = fieldsOf(bytes);
  view.setUint32(0, id, true);
  view.setUint16(4, event, true);
  view.setUint16(6, value, true);
  bytes.set(rest, CONTROL_SIZE);
  return bytes;
}

function sizeBytes(rows: number, columns: number): Uint8Array {
  const bytes = new Uint8Array(4);
  fieldsOf(bytes).setUint16(0, rows, true);
  fieldsOf(bytes).setUint16(2, columns, true);
  return bytes;
}
