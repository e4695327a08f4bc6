/** One connection between a guest and this process, as a Duplex stream, with virtio's credit (virtio 1.2, 5.10.6.3). */
import { Duplex } from 'node:stream';
import type { Op, Packet, ReceivedPacket } from './packet.ts';
import { NO_MORE_RECEIVE, NO_MORE_SEND, OP } from './packet.ts';

/** What the guest may have under way to us. */
export const BUFFER_SIZE = 256 * 1024;
/** One packet carries at most this much, so that connections take turns. */
const MAX_PAYLOAD = 64 * 1024;

export interface Link {
  send(packet: Packet): void;
  /** The connection is over, whoever ended it. */
  gone(socket: VsockSocket): void;
}

/**
 * Reads give what the guest sent, writes arrive there; `end()` half-closes. It ends with an `ECONNRESET` error where
 * the guest resets it, or the device is reset.
 */
export class VsockSocket extends Duplex {
  /** Port on this side. */
  readonly localPort: number;
  /** Port in the guest. */
  readonly remotePort: number;
  readonly #link: Link;

  // Credit of the guest: its buffer, what it has passed on, what we have sent.
  #peerBuffer = 0;
  #peerForwarded = 0;
  #sent = 0;
  // Ours: what has come and was read, and what the guest was told of it.
  #received = 0;
  #forwarded = 0;
  #told = 0;
  #waiting: { bytes: Uint8Array; done: (error?: Error | null) => void } | undefined;
  #connected = false;
  #peerEnded = false;
  #ended = false;
  #over = false;

  /** @internal made by the device */
  constructor(localPort: number, remotePort: number, link: Link) {
    super({ allowHalfOpen: true, readableHighWaterMark: BUFFER_SIZE, writableHighWaterMark: MAX_PAYLOAD });
    this.localPort = localPort;
    this.remotePort = remotePort;
    this.#link = link;
  }

  /** Bytes written that the guest has not taken yet. */
  get bytesWaiting(): number {
    return this.writableLength;
  }

  /** @internal */
  connected(packet: ReceivedPacket): void {
    this.#connected = true;
    this.#credit(packet);
    this.emit('connect');
    this.#pump();
  }

  /** @internal a packet of an open connection */
  receive(packet: ReceivedPacket): void {
    this.#credit(packet);
    switch (packet.op) {
      case OP.rw:
        // More than there was room for is a guest that does not keep to the protocol.
        if (packet.payload.byteLength > BUFFER_SIZE - (this.#received - this.#forwarded))
          this.#reset('the guest sent more than it had credit for');
        else if (packet.payload.byteLength > 0 && !this.#peerEnded) {
          this.#received += packet.payload.byteLength;
          if (this.push(packet.payload)) this.#passOn();
        }
        break;
      case OP.creditRequest:
        this.#send(OP.creditUpdate);
        break;
      case OP.shutdown:
        this.#peerShutdown(packet.flags);
        break;
      case OP.rst:
        this.#finish(this.#peerEnded && this.#ended ? undefined : 'the guest reset the connection');
        break;
      default: // its credit is all that they bring
    }
    this.#pump();
  }

  /** @internal the device or the guest is gone */
  cut(message: string): void {
    this.#finish(message);
  }

  override _read(): void {
    this.#passOn();
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    this.#waiting = { bytes: chunk, done };
    this.#pump();
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#ended = true;
    if (!this.#over) this.#send(OP.shutdown, this.#peerEnded ? NO_MORE_SEND | NO_MORE_RECEIVE : NO_MORE_SEND);
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#over) {
      this.#over = true;
      this.#send(OP.rst);
      this.#link.gone(this);
    }
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.done(error ?? new Error('the socket was closed'));
    done(error);
  }

  #credit({ bufferSize, forwarded }: ReceivedPacket): void {
    this.#peerBuffer = bufferSize;
    this.#peerForwarded = forwarded;
  }

  /** What the guest has room for; counters run over at 2^32. */
  get #room(): number {
    const underWay = (this.#sent - this.#peerForwarded) >>> 0;
    return underWay > this.#peerBuffer ? 0 : this.#peerBuffer - underWay;
  }

  #pump(): void {
    while (this.#connected && !this.#over && this.#waiting !== undefined) {
      const { bytes, done } = this.#waiting;
      const length = Math.min(bytes.byteLength, this.#room, MAX_PAYLOAD);
      if (length === 0) break;
      this.#sent = (this.#sent + length) >>> 0;
      this.#send(OP.rw, 0, bytes.subarray(0, length));
      this.#waiting = length === bytes.byteLength ? undefined : { bytes: bytes.subarray(length), done };
      if (this.#waiting === undefined) process.nextTick(done);
    }
  }

  /** What was pushed counts as passed on while the stream has room. */
  #passOn(): void {
    this.#forwarded = this.#received;
    // Told early enough that the guest never waits for it, and not for each packet.
    if (!this.#over && this.#connected && this.#forwarded - this.#told >= BUFFER_SIZE / 4) this.#send(OP.creditUpdate);
  }

  #peerShutdown(flags: number): void {
    if ((flags & NO_MORE_SEND) !== 0 && !this.#peerEnded) {
      this.#peerEnded = true;
      this.push(null);
    }
    // Neither direction is left: the answer is a reset, which is how a connection ends in order.
    if ((flags & (NO_MORE_SEND | NO_MORE_RECEIVE)) === (NO_MORE_SEND | NO_MORE_RECEIVE)) {
      this.#send(OP.rst);
      this.#finish(undefined);
    }
  }

  #reset(message: string): void {
    this.#send(OP.rst);
    this.#finish(message);
  }

  #finish(message: string | undefined): void {
    if (this.#over) return;
    this.#over = true;
    this.#link.gone(this);
    if (message === undefined) {
      if (!this.#peerEnded) this.push(null);
      this.#peerEnded = true;
      this.end();
      const waiting = this.#waiting;
      this.#waiting = undefined;
      waiting?.done(connectionReset('the guest closed the connection'));
      return;
    }
    this.destroy(connectionReset(message));
  }

  #send(op: Op, flags = 0, payload: Uint8Array = new Uint8Array()): void {
    this.#told = this.#forwarded;
    this.#link.send({
      sourcePort: this.localPort,
      destinationPort: this.remotePort,
      op,
      flags,
      payload,
      bufferSize: BUFFER_SIZE,
      forwarded: this.#forwarded,
    });
  }
}

function connectionReset(message: string): Error {
  return Object.assign(new Error(`vsock: ${message}`), { code: 'ECONNRESET', syscall: 'vsock' });
}
