/**
 * One emulated machine: the QEMU process, its console and its port. However this process ends, QEMU ends too: setpriv
 * asks the kernel to kill it with its parent (PR_SET_PDEATHSIG), which holds for SIGKILL as well.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import type { Duplex, Readable } from 'node:stream';
import { LabError } from './error.ts';
import { encodeFrame, FrameReader, type GuestFrame, type HostFrame } from './frames.ts';
import { QEMU, qemuArguments, type MachineOptions } from './qemu.ts';

const KEPT_LINES = 40;
const CONSOLE_FD = 3;
const PORT_FD = 4;

interface MachineEvents {
  frame: [type: GuestFrame, payload: Buffer];
  /** A line of the console or of QEMU's stderr. */
  line: [text: string];
  /** QEMU has ended. Nothing comes after it. */
  end: [how: string];
}

export class LabMachine extends EventEmitter<MachineEvents> {
  readonly #process: ChildProcess;
  readonly #port: Duplex;
  readonly #lines: string[] = [];
  readonly #ended: Promise<void>;

  constructor(options: Omit<MachineOptions, 'consoleFd' | 'portFd'>) {
    super();
    const args = qemuArguments({ ...options, consoleFd: CONSOLE_FD, portFd: PORT_FD });
    // A session of its own: Ctrl-C reaches us, and we decide what becomes of the machine.
    this.#process = spawn('setpriv', ['--pdeathsig', 'KILL', QEMU, ...args],
      { stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'], detached: true });
    this.#port = this.#process.stdio[PORT_FD] as Duplex;
    this.#readLines(this.#process.stdio[CONSOLE_FD] as Duplex);
    this.#readLines(this.#process.stderr!);
    const reader = new FrameReader((type, payload) => this.emit('frame', type, payload));
    this.#port.on('data', (chunk: Buffer) => {
      try {
        reader.push(chunk);
      } catch (error) {
        this.#note((error as Error).message);
        this.kill();
      }
    });
    this.#port.on('error', ignoreBrokenPipe);
    this.#ended = new Promise((resolve) => {
      const end = (how: string): void => {
        this.emit('end', how);
        resolve();
      };
      this.#process.once('error', (error) => end(`it could not be started: ${error.message}`));
      // 'close' comes when the last bytes of every pipe have been read.
      this.#process.once('close', (code, signal) => end(signal === null ? `exit code ${code}` : `signal ${signal}`));
    });
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** The last lines of the console. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  /** @returns false when the port's buffer is full; `whenWritable` says when it no longer is. */
  send(type: HostFrame, payload?: Uint8Array): boolean {
    return this.#port.writable && this.#port.write(encodeFrame(type, payload));
  }

  /** Stops reading the port: the command's writes wait, as on a full pipe. */
  pause(): void {
    this.#port.pause();
  }

  resume(): void {
    this.#port.resume();
  }

  /** Ends QEMU at once. Nothing of worth is in it: the root is read-only and writable directories are not cached. */
  kill(): void {
    this.#process.kill('SIGKILL');
  }

  /** Ends QEMU and waits until it is gone. */
  async stop(): Promise<void> {
    this.kill();
    // A paused port would never come to its end, and without it there is no 'close'.
    this.resume();
    await this.#ended;
  }

  failure(what: string): LabError {
    return new LabError(what, 'ERR_KVM_LAB_MACHINE', { lines: [...this.#lines] });
  }

  #readLines(stream: Readable): void {
    let rest = '';
    stream.setEncoding('utf8');
    stream.on('error', ignoreBrokenPipe);
    stream.on('data', (text: string) => {
      const lines = (rest + text).split(/\r*\n/);
      rest = lines.pop()!;
      for (const line of lines) this.#note(line);
    });
    stream.on('end', () => {
      if (rest !== '') this.#note(rest);
    });
  }

  #note(line: string): void {
    if (isNoise(line)) return;
    this.#lines.push(line);
    if (this.#lines.length > KEPT_LINES) this.#lines.shift();
    this.emit('line', line);
  }
}

/**
 * Of EPYC-v3 QEMU's emulation lacks a few features, and says so for each and every processor. The kernel has KVM for
 * both makers and finds that one of them is not this one.
 */
function isNoise(line: string): boolean {
  return line.trim() === '' || line.includes("TCG doesn't support requested feature") || line.includes('VMX not supported by CPU');
}

function ignoreBrokenPipe(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') throw error;
}
