/** vCPUs with the guest of guest-code.ts in them, which take orders from the test. */
import type { CpuidEntry, HypercallExit, MemoryFaultExit, Segment, Vcpu, VcpuExit, Vm } from '../../lib/index.ts';
import {
  CODE,
  DIFFERS_PORT,
  DONE_PORT,
  EXCEPTION_PORT,
  GUEST_TABLES,
  MAX_ORDERS,
  mailboxOf,
  OPERATIONS,
  ORDER_BYTES,
  ORDERS_AT,
  PAGE_TABLES,
  REFUSED_PORT,
} from './guest-code.ts';
import type { Operation } from './guest-code.ts';

export const PAGE = 4096;
/** Longer than any list of orders takes on a machine that does other things as well. */
const HANG_MS = 45_000;
const LOOK_MS = 2500;

/**
 * The guest was given the state of somebody else. Seen in the lab, with several vCPUs on several processors: QEMU 7.2's
 * emulation of SVM leaves the lab kernel's own rip (the instruction behind its VMRUN), rsp and CR3 in the VMCB, once in
 * thousands of exits by interrupt. The vCPU then spins at a kernel address or shuts down.
 */
export class LostGuest extends Error {}

/** Guest memory: sizes in bytes. */
export interface Range {
  readonly gpa: bigint;
  readonly size: number;
}

export interface Order extends Range {
  readonly operation: Operation;
  /** Fill and compare: the byte. Convert: the hypercall's third argument. */
  readonly value: bigint;
}

/** What the test does about the guest's own exits. Any other ends the guest with an error. */
export interface Handlers {
  readonly hypercall?: (exit: HypercallExit) => void | Promise<void>;
  readonly memoryFault?: (exit: MemoryFaultExit) => void | Promise<void>;
}

export const fill = (range: Range, byte: number): Order => ({ operation: 'fill', ...range, value: word(byte) });
export const compare = (range: Range, byte: number): Order => ({ operation: 'compare', ...range, value: word(byte) });
/** KVM_HC_MAP_GPA_RANGE. */
export const convert = (range: Range, attributes: bigint): Order => ({
  operation: 'convert',
  ...range,
  value: attributes,
});
/** Reads the first word of every page. */
export const touch = (range: Range): Order => ({ operation: 'touch', ...range, value: 0n });
/** Reads one word for ever. */
export const watch = (gpa: bigint): Order => ({ operation: 'watch', gpa, size: 0, value: 0n });

const word = (byte: number): bigint => BigInt(byte) * 0x0101_0101_0101_0101n;

export class Guest {
  readonly vcpu: Vcpu;
  readonly id: number;
  readonly #mailbox: DataView;
  readonly #handlers: Handlers;

  /** @param low - the first LOW_SIZE bytes of guest memory, as writeGuest() left them. */
  constructor(vm: Vm, id: number, low: Uint8Array, options: { cpuid?: CpuidEntry[]; handlers?: Handlers } = {}) {
    const { cpuid, handlers = {} } = options;
    this.id = id;
    this.#mailbox = new DataView(low.buffer, low.byteOffset + Number(mailboxOf(id)), 4096);
    this.#handlers = handlers;
    this.vcpu = vm.createVcpu(id);
    this.vcpu.setCpuid2(cpuid ?? vm.kvm.getSupportedCpuid());
    this.vcpu.updateSregs(longMode);
    this.vcpu.updateRegs({ rip: CODE, rflags: 2n, r8: mailboxOf(id), rsp: mailboxOf(id) + 4096n });
  }

  /** Has the guest carry out orders, on the vCPU's own thread. @throws Error for what it found wrong. */
  async run(...orders: readonly Order[]): Promise<void> {
    for (let from = 0; from < orders.length; from += MAX_ORDERS) {
      await this.#carryOut(orders.slice(from, from + MAX_ORDERS));
    }
  }

  async #carryOut(orders: readonly Order[]): Promise<void> {
    this.write(orders);
    for (let end = performance.now() + HANG_MS; ;) {
      const exit = await this.vcpu.run({ timeoutMs: LOOK_MS });
      const { hypercall, memoryFault } = this.#handlers;
      if (exit.reason === 'interrupted' && exit.cause === 'timeout' && performance.now() < end) this.#expectOwnState();
      else if (exit.reason === 'hypercall' && hypercall !== undefined) await hypercall(exit);
      else if (exit.reason === 'memory-fault' && memoryFault !== undefined) await memoryFault(exit);
      else if (this.isDone(exit)) return;
    }
  }

  /** The guest has no page in the upper half. */
  #expectOwnState(): void {
    const { rip } = this.vcpu.getRegs({ pending: 'keep' });
    if (rip >= 1n << 63n) throw new LostGuest(`vCPU ${this.id} is at 0x${rip.toString(16)}`);
  }

  /** At most MAX_ORDERS for the next run, by whatever way it is made. */
  write(orders: readonly Order[]): void {
    const all = [...orders, { operation: 'done', gpa: 0n, size: 0, value: 0n } as const];
    for (const [index, { operation, gpa, size, value }] of all.entries()) {
      const words = [OPERATIONS[operation], gpa, BigInt(size), value];
      for (const [at, each] of words.entries()) {
        this.#mailbox.setBigUint64(ORDERS_AT + index * ORDER_BYTES + at * 8, each, true);
      }
    }
  }

  /** Whether the guest reports the end of its orders. @throws Error for any exit that says something else. */
  isDone(exit: VcpuExit): boolean {
    // Exceptions are reported, so nothing that the guest does by itself ends so.
    if (exit.reason === 'shutdown') throw new LostGuest(`vCPU ${this.id} shut down`);
    if (exit.reason !== 'io' || exit.direction !== 'out') {
      const { rip, rdi, rcx } = this.vcpu.getRegs({ pending: 'keep' });
      const where = [rip, rdi, rcx].map((register) => `0x${register.toString(16)}`);
      throw new Error(
        `vCPU ${this.id} stopped at rip ${where[0]}, rdi ${where[1]}, rcx ${where[2]}: ${describeExit(exit)}`,
      );
    }
    if (exit.port === DONE_PORT) return true;
    const word = (offset: number): string => `0x${this.#mailbox.getBigUint64(offset, true).toString(16)}`;
    const [at, found, answer] = [0, 8, 16].map(word);
    if (exit.port === DIFFERS_PORT) throw new Error(`vCPU ${this.id} found ${found} at ${at}`);
    if (exit.port === REFUSED_PORT) throw new Error(`vCPU ${this.id} was answered ${answer} to its hypercall`);
    if (exit.port === EXCEPTION_PORT) {
      const stack = Number(this.#mailbox.getBigUint64(32, true) - mailboxOf(this.id));
      const words = [];
      for (let offset = stack; offset < 4096; offset += 8) words.push(word(offset));
      throw new Error(`vCPU ${this.id} took an exception: stack ${words.join(' ')}, cr2 ${word(24)}`);
    }
    throw new Error(`vCPU ${this.id} wrote to port ${exit.port}`);
  }
}

export function describeExit(exit: VcpuExit): string {
  return JSON.stringify(exit, (_key, value: unknown) =>
    typeof value === 'bigint' ? `0x${value.toString(16)}` : value,
  );
}

const flat = (selector: number, type: number, l: boolean): Segment => ({
  base: 0n,
  limit: 0xffff_ffff,
  selector,
  type,
  present: true,
  dpl: 0,
  db: !l,
  s: true,
  l,
  g: true,
  avl: false,
  unusable: false,
});
const data = flat(16, 3, false);
const longMode = {
  cs: flat(8, 11, true),
  ds: data,
  es: data,
  fs: data,
  gs: data,
  ss: data,
  cr0: 0x8001_0033n, // PG, WP, NE, ET, MP, PE
  cr3: PAGE_TABLES,
  cr4: 0x20n, // PAE
  efer: 0x500n, // LMA, LME
  ...GUEST_TABLES,
};
