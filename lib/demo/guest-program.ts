/** The guest's half that the build made, and the conversation with it. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KvmError, KvmGuestError } from '../errors.ts';
import type { HypercallExit, IoExit, MemoryFaultExit, Vcpu, VcpuExit } from '../kvm/index.ts';
import { COMMANDS, PORT_ARGUMENT, PORT_COMMAND, PORT_RESULT, type CommandName } from './plan.ts';

const IMAGE = 'guest/demo.bin';
/** The slowest command takes some milliseconds on a backend that emulates; this is for a guest that went astray. */
const TIMEOUT_MS = 20_000;

export interface CallOptions {
  /** How long the guest may run without an exit. Default 20000. */
  readonly timeoutMs?: number;
}

/** The flat image of guest/demo, as `npm run build` leaves it in dist/. */
export function loadGuestProgram(): Uint8Array {
  let directory = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    for (const path of [join(directory, IMAGE), join(directory, 'dist', IMAGE)]) {
      if (existsSync(path)) return readFileSync(path);
    }
    if (directory === dirname(directory)) break;
    directory = dirname(directory);
  }
  throw new KvmError(`The guest program dist/${IMAGE} was not built: run "npm run build"`, 'ERR_KVM_NOT_BUILT');
}

/** What the host does about exits that are not the conversation. */
export interface GuestHandlers {
  hypercall(exit: HypercallExit): void | Promise<void>;
  memoryFault(exit: MemoryFaultExit): void | Promise<void>;
  /** The guest has been at one instruction for `timeoutMs`. True where it was helped over it. */
  stuck(): boolean;
}

/** Between commands the guest waits in its read of PORT_COMMAND, which stays pending. */
export class Guest {
  /** Exits so far, of every kind. */
  exits = 0;
  readonly #vcpu: Vcpu;
  readonly #handlers: GuestHandlers;
  #waiting: IoExit | undefined;

  constructor(vcpu: Vcpu, handlers: GuestHandlers) {
    this.#vcpu = vcpu;
    this.#handlers = handlers;
  }

  /** Runs from the entry point to the first question. */
  async start(): Promise<void> {
    this.#waiting = await this.#untilCommand([], []);
  }

  /**
   * Has the guest carry out a command.
   * @returns its 64-bit answer.
   * @throws KvmGuestError where the guest stopped for anything that nobody handles.
   */
  async call(
    command: CommandName,
    args: readonly (bigint | number)[] = [],
    { timeoutMs = TIMEOUT_MS }: CallOptions = {},
  ): Promise<bigint> {
    if (this.#waiting === undefined) throw new KvmError('The guest is not waiting for a command', 'ERR_KVM_STATE');
    const answer: number[] = [];
    writeWord(this.#waiting, COMMANDS[command]);
    this.#waiting = undefined;
    this.#waiting = await this.#untilCommand(
      [0, 1, 2].map((index) => Number(args[index] ?? 0)),
      answer,
      timeoutMs,
    );
    return BigInt(answer[0]! >>> 0) | (BigInt(answer[1]! >>> 0) << 32n);
  }

  /**
   * Leaves the vCPU without an unfinished exit while `use` does something with it, such as pre-fault, which has the last
   * exit finished first.
   */
  async aside<T>(use: () => T | Promise<T>): Promise<T> {
    if (this.#waiting === undefined) throw new KvmError('The guest is not waiting for a command', 'ERR_KVM_STATE');
    writeWord(this.#waiting, COMMANDS.nothing);
    this.#waiting = undefined;
    const result = await use();
    this.#waiting = await this.#untilCommand([], []);
    return result;
  }

  /** Ends the guest: it halts. */
  async halt(): Promise<void> {
    if (this.#waiting === undefined) return;
    writeWord(this.#waiting, COMMANDS.halt);
    this.#waiting = undefined;
    const exit = await this.#run(TIMEOUT_MS);
    if (exit.reason !== 'hlt') this.#fail(exit, 'when it should have halted');
  }

  async #run(timeoutMs: number): Promise<VcpuExit> {
    this.exits++;
    return this.#vcpu.run({ timeoutMs });
  }

  async #untilCommand(args: number[], answer: number[], timeoutMs = TIMEOUT_MS): Promise<IoExit> {
    for (let next = 0, faults = 0; ;) {
      const exit = await this.#run(timeoutMs);
      if (exit.reason === 'io' && exit.direction === 'in' && exit.port === PORT_COMMAND) return exit;
      if (exit.reason === 'io' && exit.direction === 'in' && exit.port === PORT_ARGUMENT)
        writeWord(exit, args[next++] ?? 0);
      else if (exit.reason === 'io' && exit.direction === 'out' && exit.port === PORT_RESULT)
        answer.push(readWord(exit));
      else if (exit.reason === 'hypercall') await this.#handlers.hypercall(exit);
      else if (exit.reason === 'interrupted' && exit.cause === 'timeout' && this.#handlers.stuck()) continue;
      // A fault that comes back after it was handled would come back for ever.
      else if (exit.reason === 'memory-fault' && faults++ < 64) await this.#handlers.memoryFault(exit);
      else this.#fail(exit, 'in the middle of a command');
    }
  }

  #fail(exit: VcpuExit, when: string): never {
    const { data: _live, ...copy } = exit as unknown as Record<string, unknown>;
    throw new KvmGuestError(`The guest stopped with ${exit.reason} ${when}`, { exit: copy });
  }
}

function writeWord({ data }: IoExit, value: number): void {
  new DataView(data.buffer, data.byteOffset, data.byteLength).setUint32(0, value, true);
}

function readWord({ data }: IoExit): number {
  return new DataView(data.buffer, data.byteOffset, data.byteLength).getUint32(0, true);
}
