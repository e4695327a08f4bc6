/** virtio-vsock whose host side is this process: no module, no socket of the kernel's (virtio 1.2, 5.10). */
import { callback, u32 } from '../../arguments.ts';
import { KvmError, KvmStateError } from '../../errors.ts';
import { copyInto, copyOf, fieldsOf, viewsFrom } from '../virtio/chain.ts';
import { VirtioDevice } from '../virtio/device.ts';
import type { Virtqueue } from '../virtio/queue.ts';
import { decodePacket, encodeHeader, HEADER_SIZE, HOST_CID, OP } from './packet.ts';
import type { Packet, ReceivedPacket } from './packet.ts';
import { BUFFER_SIZE, VsockSocket } from './socket.ts';

const RECEIVE = 0;
const TRANSMIT = 1;
const QUEUE_SIZE = 256;
/** A packet of the guest's is at most this large; the rest of a request is not looked at. */
const MAX_PACKET = BUFFER_SIZE + HEADER_SIZE;
/** Packets for a guest that gives no buffers. Data is bounded by credit, so this bounds what is not data. */
const MAX_WAITING = 4096;
/** Connections of one guest at a time. */
const MAX_CONNECTIONS = 1024;
const FIRST_EPHEMERAL_PORT = 1024;

export interface VirtioVsockOptions {
  /** The guest's context id, 3 or more. Default: 3. */
  readonly cid?: bigint;
}

/** What {@link VirtioVsock.listen} gives. */
export interface VsockServer {
  readonly port: number;
  /** Takes no more connections; those that there are stay. */
  close(): void;
}

export class VirtioVsock extends VirtioDevice {
  readonly name = 'virtio-vsock';
  readonly id = 19;
  readonly features = 0n;
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE];
  readonly cid: bigint;
  readonly #sockets = new Map<string, VsockSocket>();
  readonly #connecting = new Map<VsockSocket, (error?: Error) => void>();
  readonly #servers = new Map<number, (socket: VsockSocket) => void>();
  #waiting: Packet[] = [];
  #nextPort = FIRST_EPHEMERAL_PORT;
  readonly #link = {
    send: (packet: Packet) => this.#send(packet),
    gone: (socket: VsockSocket) => this.#forget(socket),
  };

  constructor({ cid = 3n }: VirtioVsockOptions = {}) {
    super();
    if (cid < 3n || cid >= 0xffff_ffffn)
      throw new RangeError(`Expected a context id from 3 to 2^32 - 2 for cid but received ${cid}n`);
    this.cid = cid;
  }

  /** Whether a driver is there to talk to. */
  get ready(): boolean {
    return this.host !== undefined;
  }

  /**
   * Connects to a port in the guest.
   * @throws KvmStateError where the guest has no driver yet; the promise rejects with `ECONNREFUSED` where nobody
   * listens at that port, `ECONNRESET` where the guest goes away.
   */
  async connect(port: number): Promise<VsockSocket> {
    u32('port', port);
    if (this.host === undefined)
      throw new KvmStateError('The guest has no vsock driver that is ready', 'ERR_KVM_STATE');
    const socket = new VsockSocket(this.#freePort(port), port, this.#link);
    this.#add(socket);
    await new Promise<void>((resolve, reject) => {
      this.#connecting.set(socket, (error) => (error === undefined ? resolve() : reject(error)));
      this.guard(() => this.#send(control(socket.localPort, port, OP.request)));
    });
    return socket;
  }

  /**
   * Takes connections that the guest makes to a port of the host (context id 2).
   * @throws KvmError `EADDRINUSE` where somebody listens there already.
   */
  listen(port: number, onConnection: (socket: VsockSocket) => void): VsockServer {
    u32('port', port);
    callback('onConnection', onConnection);
    if (this.#servers.has(port)) throw new KvmError(`Somebody listens on vsock port ${port} already`, 'EADDRINUSE');
    this.#servers.set(port, onConnection);
    return {
      port,
      close: () => {
        if (this.#servers.get(port) === onConnection) this.#servers.delete(port);
      },
    };
  }

  config(): Uint8Array {
    const bytes = new Uint8Array(8);
    fieldsOf(bytes).setBigUint64(0, this.cid, true);
    return bytes;
  }

  protected override deactivated(): void {
    this.#waiting = [];
    for (const [socket, settle] of this.#connecting) {
      this.#connecting.delete(socket);
      // Nobody has it yet, so nobody could listen for its error.
      this.#forget(socket);
      settle(Object.assign(new Error('vsock: the guest is gone'), { code: 'ECONNRESET' }));
    }
    for (const socket of [...this.#sockets.values()]) socket.cut('the device was reset');
    this.#sockets.clear();
  }

  protected handle(index: number, queue: Virtqueue): void {
    if (index === RECEIVE) this.#flush();
    if (index !== TRANSMIT) return;
    do {
      for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) {
        const packet = decodePacket(copyOf(chain.readable, Math.min(chain.readableSize, MAX_PACKET)));
        queue.push(chain, 0);
        if (packet !== undefined) this.#take(packet);
      }
    } while (this.queues[TRANSMIT] === queue && !queue.drained());
    this.host?.signal(queue);
  }

  #take(packet: ReceivedPacket): void {
    if (packet.sourceCid !== this.cid || packet.destinationCid !== HOST_CID) return;
    const socket = packet.stream ? this.#sockets.get(key(packet.destinationPort, packet.sourcePort)) : undefined;
    if (socket === undefined) {
      if (packet.op === OP.request && packet.stream) this.#accept(packet);
      else if (packet.op !== OP.rst) this.#refuse(packet);
      return;
    }
    const settle = this.#connecting.get(socket);
    if (settle === undefined) {
      socket.receive(packet);
      return;
    }
    this.#connecting.delete(socket);
    if (packet.op === OP.response) {
      socket.connected(packet);
      settle();
    } else {
      this.#forget(socket);
      settle(
        Object.assign(new Error(`vsock: nobody listens on port ${packet.sourcePort} in the guest`), {
          code: 'ECONNREFUSED',
        }),
      );
    }
  }

  #accept(packet: ReceivedPacket): void {
    const onConnection = this.#servers.get(packet.destinationPort);
    if (onConnection === undefined || this.#sockets.size >= MAX_CONNECTIONS) {
      this.#refuse(packet);
      return;
    }
    const socket = new VsockSocket(packet.destinationPort, packet.sourcePort, this.#link);
    this.#add(socket);
    this.#send(control(packet.destinationPort, packet.sourcePort, OP.response));
    socket.connected(packet);
    onConnection(socket);
  }

  #refuse({ destinationPort, sourcePort }: ReceivedPacket): void {
    this.#send(control(destinationPort, sourcePort, OP.rst));
  }

  #add(socket: VsockSocket): void {
    this.#sockets.set(key(socket.localPort, socket.remotePort), socket);
  }

  #forget(socket: VsockSocket): void {
    const name = key(socket.localPort, socket.remotePort);
    if (this.#sockets.get(name) === socket) this.#sockets.delete(name);
  }

  #freePort(remote: number): number {
    for (let tries = 0; tries <= MAX_CONNECTIONS; tries++) {
      const port = this.#nextPort;
      this.#nextPort = port === 0xffff_fffe ? FIRST_EPHEMERAL_PORT : port + 1;
      if (!this.#sockets.has(key(port, remote))) return port;
    }
    throw new KvmError('All vsock connections are in use', 'EADDRNOTAVAIL');
  }

  #send(packet: Packet): void {
    if (this.queues[RECEIVE] === undefined || this.#waiting.length >= MAX_WAITING) return;
    // The payload of a stream's chunk may be used again once its writer was told that it is done.
    this.#waiting.push(packet.payload.byteLength === 0 ? packet : { ...packet, payload: packet.payload.slice() });
    this.guard(() => this.#flush());
  }

  #flush(): void {
    const queue = this.queues[RECEIVE];
    if (queue === undefined) return;
    while (this.#waiting.length > 0) {
      const chain = queue.pop();
      if (chain === undefined) {
        if (queue.drained()) break;
        continue;
      }
      const packet = this.#waiting[0]!;
      const room = chain.writableSize - HEADER_SIZE;
      if (room < Math.min(packet.payload.byteLength, 1)) {
        queue.push(chain, 0); // a buffer without room for a packet is the guest's own loss
        continue;
      }
      const payload = packet.payload.subarray(0, room);
      copyInto(chain.writable, encodeHeader(this.cid, { ...packet, payload }));
      copyInto(viewsFrom(chain.writable, HEADER_SIZE), payload);
      queue.push(chain, HEADER_SIZE + payload.byteLength);
      if (payload.byteLength === packet.payload.byteLength) this.#waiting.shift();
      else this.#waiting[0] = { ...packet, payload: packet.payload.subarray(payload.byteLength) };
    }
    this.host?.signal(queue);
  }
}

function key(localPort: number, remotePort: number): string {
  return `${localPort}:${remotePort}`;
}

function control(sourcePort: number, destinationPort: number, op: Packet['op']): Packet {
  return {
    sourcePort,
    destinationPort,
    op,
    flags: 0,
    bufferSize: BUFFER_SIZE,
    forwarded: 0,
    payload: new Uint8Array(),
  };
}
