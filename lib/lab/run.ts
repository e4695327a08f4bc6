/** Runs one command in the lab. */
import { constants } from 'node:os';
import { finished, type Readable, type Writable } from 'node:stream';
import { callback, oneOf, uint } from '../arguments.ts';
import { LabError } from './error.ts';
import { findLab, type FindLabOptions } from './find.ts';
import { encodeSpec, encodeWindow, FRAME_MAX, INPUT_WINDOW, type LabSpec } from './frames.ts';
import { ensureInitramfs } from './initramfs.ts';
import { LabMachine } from './machine.ts';
import { checkCwd, checkWritable, commandEnvironment, DEFAULT_CPUS, DEFAULT_MEMORY, parseMemory } from './options.ts';

/** Above this much time without a word from init the machine is taken for dead. */
const BOOT_LIMIT_MS = 120_000;

/** What to run in the lab, and in which machine. */
export interface RunInLabOptions extends FindLabOptions {
  /** The command and its arguments; the command is looked up in PATH. */
  readonly argv: readonly string[];
  /** Absolute. Default: the current directory. */
  readonly cwd?: string;
  /**
   * Set over the environment of this process, which the command gets without what belongs to the host only (see
   * `commandEnvironment`). `undefined` takes a variable away.
   */
  readonly env?: NodeJS.ProcessEnv;
  /** Bytes, or a string like `'3G'`. Default 3 GiB; at least 256 MiB. */
  readonly memory?: number | string;
  /** Default 2. */
  readonly cpus?: number;
  /** For boot and command together. Default: none. Ends in a LabError `ERR_KVM_LAB_TIMEOUT`. */
  readonly timeoutMs?: number;
  /** Directories that the command may write through to the host. All other writes are lost with the machine. */
  readonly writable?: readonly string[];
  /** Huge pages of 2 MiB to set aside, mounted at /dev/hugepages. Default 0. */
  readonly hugePages?: number;
  /** Where stdout goes. Default: nowhere. It is not ended. */
  readonly stdout?: Writable;
  /** Where stderr goes. Default: nowhere. It is not ended. */
  readonly stderr?: Writable;
  /** What the command reads. Default: nothing (/dev/null). */
  readonly stdin?: Readable;
  /** Give the command a terminal of this size; all its output is then stdout. */
  readonly terminal?: { readonly rows: number; readonly columns: number };
  /** Ends the machine; the promise is rejected with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Lines of the machine's console, as they come. */
  readonly onConsole?: (line: string) => void;
  /** Called once the machine is up and the command starts. */
  readonly onReady?: (control: RunControl) => void;
}

/** What can be told to a command that runs. */
export interface RunControl {
  /** Tells a command with a terminal the size of its window. */
  resize(size: { readonly rows: number; readonly columns: number }): void;
  /** Sends a signal (`'SIGINT'`) to the command's process group. */
  kill(signal: NodeJS.Signals): void;
}

/** How a command in the lab ended, and what the run took. */
export interface RunInLabResult {
  /** What the command exited with; 128 + n when signal n ended it. */
  readonly exitCode: number;
  /** The signal that ended the command, if one did. */
  readonly signal?: NodeJS.Signals;
  /** From the start of the machine to the start of the command. */
  readonly bootMs: number;
  /** From the start of the command to its end. */
  readonly runMs: number;
}

/**
 * Boots the lab, runs a command in it, ends the lab. The command sees the host's files, as root, and writes to none of
 * them but those below `writable`.
 * @throws LabError when there is no lab kernel (`ERR_KVM_LAB_NOT_BUILT`), when the machine fails, or after `timeoutMs`.
 */
export async function runInLab(options: RunInLabOptions): Promise<RunInLabResult> {
  const { signal } = options;
  const spec = specOf(options);
  const memory = parseMemory(options.memory ?? DEFAULT_MEMORY);
  const cpus = uint('cpus', options.cpus ?? DEFAULT_CPUS, { min: 1, max: 64 });
  if (options.timeoutMs !== undefined) uint('timeoutMs', options.timeoutMs, { min: 1, max: 2 ** 31 - 1 });
  if (options.onConsole !== undefined) callback('onConsole', options.onConsole);
  signal?.throwIfAborted();
  const lab = findLab(options);
  if (lab === undefined) {
    throw new LabError('there is no lab kernel yet; build it with: npx node-kvm lab build', 'ERR_KVM_LAB_NOT_BUILT');
  }
  const initramfs = await ensureInitramfs(options.directory);
  signal?.throwIfAborted();

  const started = performance.now();
  const machine = new LabMachine({ cpu: lab.cpu, kernel: lab.kernel, initramfs, memory, cpus, writable: spec.writable ?? [] });
  try {
    return await new Promise<RunInLabResult>((resolve, reject) => follow(machine, spec, options, started, resolve, reject));
  } finally {
    await machine.stop();
  }
}

function specOf(options: RunInLabOptions): LabSpec {
  if (!Array.isArray(options.argv) || options.argv.length === 0) throw new TypeError('Expected a command for argv but received none');
  return {
    argv: options.argv,
    cwd: checkCwd(options.cwd ?? process.cwd()),
    env: commandEnvironment(options.env),
    writable: checkWritable(options.writable ?? []),
    ...(options.hugePages === undefined ? {} : { hugePages: uint('hugePages', options.hugePages) }),
    hasInput: options.stdin !== undefined,
    ...(options.terminal === undefined ? {} : { terminal: options.terminal }),
  };
}

function follow(
  machine: LabMachine, spec: LabSpec, options: RunInLabOptions, started: number,
  resolve: (result: RunInLabResult) => void, reject: (error: unknown) => void,
): void {
  let ready: number | undefined;
  const input = options.stdin === undefined ? undefined : new InputPump(machine, options.stdin);
  const timers: NodeJS.Timeout[] = [];
  const settle = (act: () => void): void => {
    for (const timer of timers) clearTimeout(timer);
    options.signal?.removeEventListener('abort', abort);
    input?.stop();
    act();
  };
  const fail = (error: unknown): void => settle(() => reject(error));
  const abort = (): void => fail(options.signal!.reason);
  const timedOut = (what: string): void =>
    fail(new LabError(what, 'ERR_KVM_LAB_TIMEOUT', { lines: [...machine.lines] }));

  options.signal?.addEventListener('abort', abort, { once: true });
  timers.push(setTimeout(() => timedOut(`the lab did not start within ${BOOT_LIMIT_MS / 1000} s`), BOOT_LIMIT_MS));
  if (options.timeoutMs !== undefined) {
    const limit = options.timeoutMs;
    timers.push(setTimeout(() => timedOut(`the time of ${limit / 1000} s is over; the command was ended`), limit));
  }
  if (options.onConsole !== undefined) machine.on('line', options.onConsole);
  machine.on('end', (how) => fail(machine.failure(
    `the lab's machine stopped ${ready === undefined ? 'before the command started' : 'while the command ran'} (${how})`)));
  machine.on('frame', (type, payload) => {
    switch (type) {
      case 'ready':
        ready = performance.now();
        clearTimeout(timers[0]);
        input?.start();
        options.onReady?.({
          resize: (size) => machine.send('window', encodeWindow(size)),
          kill: (name) => machine.send('signal', Uint8Array.of(constants.signals[oneOf('signal', name, signalNames)])),
        });
        break;
      case 'output': write(machine, options.stdout, payload); break;
      case 'error': write(machine, options.stderr, payload); break;
      case 'taken': input?.taken(payload.readUInt32LE(0)); break;
      case 'failed': fail(machine.failure(`the lab could not run the command: ${payload.toString()}`)); break;
      case 'exit': {
        const now = performance.now();
        const times = { bootMs: Math.round((ready ?? now) - started), runMs: Math.round(now - (ready ?? now)) };
        settle(() => resolve({ ...ending(payload[0]!, payload[1]!), ...times }));
      }
    }
  });
  machine.send('spec', encodeSpec(spec));
}

const signalNames = Object.keys(constants.signals) as NodeJS.Signals[];

function ending(code: number, signal: number): Pick<RunInLabResult, 'exitCode' | 'signal'> {
  if (signal === 0) return { exitCode: code };
  const name = signalNames.find((candidate) => constants.signals[candidate] === signal);
  return { exitCode: 128 + signal, ...(name === undefined ? {} : { signal: name }) };
}

/** A reader that is slow slows the command down instead of filling this process's memory. */
function write(machine: LabMachine, stream: Writable | undefined, bytes: Buffer): void {
  if (stream === undefined || stream.destroyed || stream.writableEnded) return;
  if (stream.write(Buffer.from(bytes))) return;
  machine.pause();
  const resume = (): void => {
    stream.off('drain', resume);
    stream.off('close', resume);
    machine.resume();
  };
  stream.once('drain', resume);
  stream.once('close', resume);
}

/** Sends a stream as the command's stdin, never more than the window at a time. */
class InputPump {
  readonly #machine: LabMachine;
  readonly #stream: Readable;
  #credit = INPUT_WINDOW;
  #stopped = false;
  #forget: (() => void) | undefined;

  constructor(machine: LabMachine, stream: Readable) {
    this.#machine = machine;
    this.#stream = stream;
  }

  start(): void {
    this.#stream.on('readable', this.#pump);
    this.#forget = finished(this.#stream, { writable: false }, () => {
      if (!this.#stopped) this.#machine.send('input');
    });
    this.#pump();
  }

  taken(bytes: number): void {
    this.#credit += bytes;
    this.#pump();
  }

  stop(): void {
    this.#stopped = true;
    this.#stream.off('readable', this.#pump);
    this.#forget?.();
  }

  readonly #pump = (): void => {
    while (!this.#stopped && this.#credit > 0) {
      const available = Math.min(this.#stream.readableLength, this.#credit, FRAME_MAX);
      // read(0) starts the next read of the source without taking anything.
      const chunk: unknown = available === 0 ? this.#stream.read(0) : this.#stream.read(available);
      if (chunk === null) return;
      const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : (chunk as Buffer);
      this.#credit -= bytes.byteLength;
      this.#machine.send('input', bytes);
    }
  };
}
