/** A 16550A UART: the console of early boot and of every kernel. Its other end is a Node stream. */
import { Duplex } from 'node:stream';
import type { InterruptLine, PortDevice } from './ports.ts';

// Registers, by offset. DLAB is bit 7 of the line control register.
const DATA = 0;
const INTERRUPT_ENABLE = 1;
const INTERRUPT_IDENTIFICATION = 2;
const LINE_CONTROL = 3;
const MODEM_CONTROL = 4;
const LINE_STATUS = 5;
const MODEM_STATUS = 6;
const SCRATCH = 7;

const LCR_DLAB = 0x80;
const IER_RECEIVED = 1;
const IER_TRANSMITTER_EMPTY = 2;
const IIR_NONE = 0x01;
const IIR_TRANSMITTER_EMPTY = 0x02;
const IIR_RECEIVED = 0x04;
const IIR_FIFOS = 0xc0;
const FCR_ENABLE = 1;
const FCR_CLEAR_RECEIVER = 2;
const LSR_DATA_READY = 0x01;
const LSR_TRANSMITTER_EMPTY = 0x60;
const MCR_LOOP = 0x10;
const MCR_OUT2 = 0x08;
/** Carrier, data set ready, clear to send. */
const MSR_CONNECTED = 0xb0;

export interface SerialOptions {
  /** Bytes of guest output that wait for a reader before the transmitter says that it is busy. Default: 64 KiB. */
  readonly outputLimit?: number;
  /** Bytes of input that wait for the guest before the stream's `write` says so. Default: 4096. */
  readonly inputLimit?: number;
  /** Called after a change of what a read of a register would give: for a machine that answers reads elsewhere. */
  readonly onChange?: () => void;
}

/**
 * The device is what the guest sees; {@link stream} is the other end of the line: what the guest sends is read there,
 * and what is written there the guest receives. Output that nobody reads is held back as hardware does it, by a
 * transmitter that is not empty, so a guest cannot fill the host's memory.
 */
export class Serial implements PortDevice {
  readonly name: string;
  readonly stream: Duplex;
  readonly #line: InterruptLine;
  readonly #inputLimit: number;
  readonly #onChange: (() => void) | undefined;

  #interruptEnable = 0;
  #lineControl = 3;
  #modemControl = 0;
  #scratch = 0;
  #divisor = 12;
  #fifos = false;
  #transmitterPending = false;
  #level = false;

  // Received and not yet read by the guest.
  #received: number[] = [];
  #inputDone: (() => void) | undefined;
  #rest: Uint8Array | undefined;

  // Sent in this turn of the event loop, pushed into the stream at its end.
  #sent: number[] = [];
  #flushing = false;
  #blocked = false;

  constructor(
    name: string,
    line: InterruptLine,
    { outputLimit = 65536, inputLimit = 4096, onChange }: SerialOptions = {},
  ) {
    this.name = name;
    this.#line = line;
    this.#inputLimit = inputLimit;
    this.#onChange = onChange;
    this.stream = new Duplex({
      readableHighWaterMark: outputLimit,
      writableHighWaterMark: inputLimit,
      allowHalfOpen: true,
      read: () => this.#unblock(),
      write: (chunk: Buffer, _encoding, done) => this.#receive(chunk, done),
    });
  }

  readPort(offset: number): number {
    switch (offset) {
      case DATA:
        return (this.#lineControl & LCR_DLAB) !== 0 ? this.#divisor & 0xff : this.#takeReceived();
      case INTERRUPT_ENABLE:
        return (this.#lineControl & LCR_DLAB) !== 0 ? this.#divisor >> 8 : this.#interruptEnable;
      case INTERRUPT_IDENTIFICATION:
        return this.#identify();
      case LINE_CONTROL:
        return this.#lineControl;
      case MODEM_CONTROL:
        return this.#modemControl;
      case LINE_STATUS:
        return (this.#blocked ? 0 : LSR_TRANSMITTER_EMPTY) | (this.#received.length > 0 ? LSR_DATA_READY : 0);
      case MODEM_STATUS:
        return this.#modemStatus();
      case SCRATCH:
        return this.#scratch;
      default:
        return 0xff;
    }
  }

  writePort(offset: number, _size: number, value: number): void {
    const byte = value & 0xff;
    switch (offset) {
      case DATA:
        if ((this.#lineControl & LCR_DLAB) !== 0) this.#divisor = (this.#divisor & 0xff00) | byte;
        else this.#transmit(byte);
        break;
      case INTERRUPT_ENABLE:
        if ((this.#lineControl & LCR_DLAB) !== 0) {
          this.#divisor = (this.#divisor & 0xff) | (byte << 8);
        } else {
          // Drivers rely on an interrupt as soon as they ask for it with an empty transmitter.
          if ((byte & ~this.#interruptEnable & IER_TRANSMITTER_EMPTY) !== 0 && !this.#blocked)
            this.#transmitterPending = true;
          this.#interruptEnable = byte & 0x0f;
        }
        break;
      case INTERRUPT_IDENTIFICATION:
        this.#fifos = (byte & FCR_ENABLE) !== 0;
        if ((byte & FCR_CLEAR_RECEIVER) !== 0) this.#received = [];
        break;
      case LINE_CONTROL:
        this.#lineControl = byte;
        break;
      case MODEM_CONTROL:
        this.#modemControl = byte & 0x1f;
        break;
      case SCRATCH:
        this.#scratch = byte;
        break;
    }
    this.#update();
  }

  /** Ends the stream for its reader: the guest is gone. What it sent before is still read. */
  end(): void {
    this.#flush();
    this.stream.push(null);
  }

  /** The state after power-on. The stream stays as it is. */
  reset(): void {
    this.#interruptEnable = this.#modemControl = this.#scratch = 0;
    this.#lineControl = 3;
    this.#divisor = 12;
    this.#fifos = this.#transmitterPending = false;
    this.#update();
  }

  #transmit(byte: number): void {
    if ((this.#modemControl & MCR_LOOP) !== 0) {
      if (this.#received.length < this.#inputLimit) this.#received.push(byte);
      return;
    }
    this.#transmitterPending = true;
    this.#sent.push(byte);
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => this.#flush());
  }

  #flush(): void {
    this.#flushing = false;
    if (this.#sent.length === 0 || this.stream.destroyed || this.stream.readableEnded) {
      this.#sent = [];
      return;
    }
    const bytes = Buffer.from(this.#sent);
    this.#sent = [];
    if (!this.stream.push(bytes)) this.#block();
  }

  #block(): void {
    this.#blocked = true;
    this.#update();
  }

  #unblock(): void {
    if (!this.#blocked) return;
    this.#blocked = false;
    this.#transmitterPending = true;
    this.#update();
  }

  #receive(chunk: Uint8Array, done: () => void): void {
    const room = this.#inputLimit - this.#received.length;
    for (const byte of chunk.subarray(0, room)) this.#received.push(byte);
    if (chunk.byteLength > room) {
      this.#rest = Uint8Array.prototype.slice.call(chunk, room);
      this.#inputDone = done;
    } else {
      done();
    }
    this.#update();
  }

  #takeReceived(): number {
    const byte = this.#received.shift() ?? 0;
    const { done, rest } = { done: this.#inputDone, rest: this.#rest };
    if (done !== undefined && rest !== undefined && this.#received.length === 0) {
      this.#inputDone = this.#rest = undefined;
      this.#receive(rest, done);
    }
    this.#update();
    return byte;
  }

  #identify(): number {
    const fifos = this.#fifos ? IIR_FIFOS : 0;
    if (this.#receivedInterrupt) return fifos | IIR_RECEIVED;
    if (this.#transmitterInterrupt) {
      // Reading the register is what ends this one.
      this.#transmitterPending = false;
      this.#update();
      return fifos | IIR_TRANSMITTER_EMPTY;
    }
    return fifos | IIR_NONE;
  }

  get #receivedInterrupt(): boolean {
    return (this.#interruptEnable & IER_RECEIVED) !== 0 && this.#received.length > 0;
  }

  get #transmitterInterrupt(): boolean {
    return (this.#interruptEnable & IER_TRANSMITTER_EMPTY) !== 0 && this.#transmitterPending && !this.#blocked;
  }

  #modemStatus(): number {
    if ((this.#modemControl & MCR_LOOP) === 0) return MSR_CONNECTED;
    // In loop-back the outputs are the inputs: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD.
    const { 0: dtr, 1: rts, 2: out1, 3: out2 } = [1, 2, 4, 8].map((bit) => ((this.#modemControl & bit) !== 0 ? 1 : 0));
    return (rts! << 4) | (dtr! << 5) | (out1! << 6) | (out2! << 7);
  }

  #update(): void {
    // On a PC, OUT2 connects the interrupt; drivers set it, and so does every kernel's probe.
    const enabled = (this.#modemControl & (MCR_OUT2 | MCR_LOOP)) === MCR_OUT2;
    const level = enabled && (this.#receivedInterrupt || this.#transmitterInterrupt);
    if (level !== this.#level) {
      this.#level = level;
      this.#line.set(level);
    }
    this.#onChange?.();
  }
}
