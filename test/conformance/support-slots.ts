/** A vCPU that reads one word for ever on its own thread, and says whenever it has another value. */
import { setTimeout as sleep } from 'node:timers/promises';
import { HostMapping } from '../../lib/index.ts';
import type { Vcpu, VcpuExit, Vm } from '../../lib/index.ts';
import { LOW_SIZE, writeGuest } from './guest-code.ts';
import { describeExit, Guest } from './guest-vcpu.ts';
import { GIB } from './support.ts';

/** The word. */
export const GPA = 3n * GIB;
/** What the guest reads there while no slot is there; the last makes it leave the word alone, for ever. */
export const ABSENT = 0xab5e;
export const LAST = 0x1a57;

// In slot 0, behind the page tables and before the mailboxes.
const CODE = 0xa000n;
const BEATS = 0xb000n;
const PORT = 0x10;
const HANG_MS = 300_000;

// rdi: the word's address; rbx: what it was; r8: where to count; r9: LAST.
// prettier-ignore
const BYTES = [
  // spin:
  0x49, 0xff, 0x00, // inc qword [r8]
  0x48, 0x8b, 0x07, // mov rax, [rdi]
  0x48, 0x39, 0xd8, // cmp rax, rbx
  0x74, 0xf5, //       je spin
  0x48, 0x89, 0xc3, // mov rbx, rax
  0xe7, PORT, //       out PORT, eax
  0x4c, 0x39, 0xc8, // cmp rax, r9
  0x75, 0xeb, //       jne spin
  // last:
  0xf3, 0x90, //       pause
  0xeb, 0xfc, //       jmp last
];

/** The last loop, which reads no memory: from, and up to. */
const LAST_LOOP = [CODE + 21n, CODE + 25n] as const;

export interface SeenMmio {
  readonly direction: 'read' | 'write';
  readonly bytes: number;
  readonly gpa: bigint;
}

export class Spinner {
  readonly vcpu: Vcpu;
  /** Each value that the guest saw, one after the other. */
  readonly said: number[] = [];
  readonly mmio: SeenMmio[] = [];
  answer = ABSENT;
  readonly #low: HostMapping;
  readonly #count: BigUint64Array;
  #ended: VcpuExit | undefined;
  #failure: unknown;

  constructor(vm: Vm) {
    this.#low = HostMapping.anonymous(LOW_SIZE);
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: LOW_SIZE, mapping: this.#low });
    const low = this.#low.view();
    writeGuest(low);
    low.set(BYTES, Number(CODE));
    this.#count = new BigUint64Array(low.buffer, low.byteOffset + Number(BEATS), 1);
    this.vcpu = new Guest(vm, 0, low).vcpu;
    // No interrupt table: an event whose delivery finds no memory is another point.
    this.vcpu.updateSregs({ idt: { base: 0n, limit: 0 } });
    this.vcpu.updateRegs({ rip: CODE, rdi: GPA, rbx: 2n ** 64n - 1n, r8: BEATS, r9: BigInt(LAST) });
  }

  /** Goes on until an exit that is neither a word nor an MMIO access. */
  start(): void {
    this.#ended = undefined;
    void this.#loop().then(
      (exit) => {
        this.#ended = exit;
      },
      (error: unknown) => {
        this.#failure = error;
      },
    );
  }

  /** Until the guest says a value that it has not just said. */
  async says(value: number): Promise<void> {
    await this.#until(() => this.said.at(-1) === value, `the value ${value}`);
  }

  /** Until the guest has read the word again, from now on. */
  async beats(): Promise<void> {
    const before = Atomics.load(this.#count, 0);
    await this.#until(() => Atomics.load(this.#count, 0) > before + 1n, 'another round');
  }

  /** Until the guest is in its last loop; it is stopped there. */
  async lastLoop(): Promise<void> {
    for (;;) {
      this.vcpu.kick();
      const exit = await this.end();
      if (exit.reason !== 'interrupted' || exit.cause !== 'kick') throw new Error(`stopped: ${describeExit(exit)}`);
      if (this.inLastLoop()) return;
      this.start();
    }
  }

  inLastLoop(): boolean {
    const { rip } = this.vcpu.getRegs({ pending: 'keep' });
    return rip >= LAST_LOOP[0] && rip < LAST_LOOP[1];
  }

  async end(): Promise<VcpuExit> {
    await this.#until(() => this.#ended !== undefined, 'an end', true);
    return this.#ended!;
  }

  close(): void {
    this.#low.close();
  }

  async #loop(): Promise<VcpuExit> {
    for (;;) {
      const exit = await this.vcpu.run({ timeoutMs: HANG_MS });
      if (exit.reason === 'io' && exit.direction === 'out' && exit.port === PORT) {
        this.said.push(new DataView(exit.data.buffer, exit.data.byteOffset).getUint32(0, true));
      } else if (exit.reason === 'mmio') {
        this.mmio.push({ direction: exit.direction, bytes: exit.data.length, gpa: exit.gpa });
        if (exit.direction === 'read') exit.data.set([this.answer & 0xff, this.answer >> 8]);
      } else {
        return exit;
      }
    }
  }

  async #until(done: () => boolean, what: string, mayEnd = false): Promise<void> {
    const deadline = performance.now() + HANG_MS;
    while (!done()) {
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#ended !== undefined && !mayEnd) throw new Error(`no ${what}: ${describeExit(this.#ended)}`);
      if (performance.now() > deadline) throw new Error(`no ${what} after ${HANG_MS} ms; said ${this.said.join(' ')}`);
      await sleep(1);
    }
  }
}
