/** One VM of the stateful fuzzer: a GuestMemory, and vCPUs that read and write a byte of a page when told. */
import { GuestMemory } from '../../lib/index.ts';
import type { Kvm, Vcpu, VcpuExit, Vm, VmTypeName } from '../../lib/index.ts';

export const PAGE = 4096;
/** Where the area begins: the base of DS, so that 16-bit addresses reach it. */
export const AREA = 0x1_0000;
/** The byte of a page that stands for its content. */
export const AT = 0x40;
const CODE = 0x1000n;
const SPIN = 0x2000n;
const LIMIT_MS = 60_000;

export class Machine {
  readonly vm: Vm;
  readonly memory: GuestMemory;
  readonly #worker: Vcpu;
  readonly #spinner: Vcpu;
  #spinning: Promise<VcpuExit> | undefined;

  constructor(kvm: Kvm, type: VmTypeName) {
    this.vm = kvm.createVm(type);
    this.memory = new GuestMemory(this.vm);
    this.memory.add({ gpa: 0n, size: 4 * PAGE });
    this.memory.write(SPIN, Uint8Array.of(0xeb, 0xfe));
    [this.#worker, this.#spinner] = [this.#vcpu(0), this.#vcpu(1)];
  }

  #vcpu(id: number): Vcpu {
    const vcpu = this.vm.createVcpu(id);
    const sregs = vcpu.getSregs();
    vcpu.setSregs({
      ...sregs,
      cs: { ...sregs.cs, base: 0n, selector: 0 },
      ds: { ...sregs.ds, base: BigInt(AREA), selector: AREA >> 4 },
    });
    vcpu.updateRegs({ rip: SPIN, rflags: 2n });
    return vcpu;
  }

  /** The guest reads the byte of a page, or writes it. What it read is in the result. */
  access(page: number, write: number | undefined): { readonly exit: VcpuExit; readonly value: number } {
    const address = page * PAGE + AT;
    const [low, high] = [address & 0xff, address >> 8];
    // mov al, [address]; hlt   or   mov byte [address], write; hlt
    const code = write === undefined ? [0xa0, low, high, 0xf4] : [0xc6, 0x06, low, high, write, 0xf4];
    this.memory.write(CODE, Uint8Array.from(code));
    this.#worker.updateRegs({ rip: CODE, rflags: 2n, rax: 0xeen });
    let exit = this.#worker.runSync({ timeoutMs: LIMIT_MS });
    const first = exit;
    if (exit.reason === 'mmio') {
      if (exit.gpa !== BigInt(AREA + address)) throw new Error(`an mmio exit at 0x${exit.gpa.toString(16)}`);
      if (exit.direction === 'read') exit.data[0] = 0x77;
      exit = this.#worker.runSync({ timeoutMs: LIMIT_MS });
      if (exit.reason !== 'hlt') throw new Error(`${exit.reason} after an mmio exit`);
    }
    return { exit: first, value: Number(this.#worker.getRegs().rax & 0xffn) };
  }

  /** Kicks before the run, which then enters no guest; and the one after it does. */
  kickBefore(): void {
    this.#worker.updateRegs({ rip: SPIN });
    this.#worker.kick();
    const exit = this.#worker.runSync({ timeoutMs: LIMIT_MS });
    if (exit.reason !== 'interrupted' || exit.cause !== 'kick')
      throw new Error(`${exit.reason} where a kick was waiting`);
    const next = this.#worker.runSync({ timeoutMs: 1 });
    if (next.reason !== 'interrupted' || next.cause !== 'timeout')
      throw new Error(`${next.reason} after the kick was taken`);
  }

  get spinning(): boolean {
    return this.#spinning !== undefined;
  }

  get prefaulter(): Vcpu {
    return this.#worker;
  }

  startSpinning(): void {
    this.#spinning ??= this.#spinner.run();
    // Looked at when it is stopped.
    this.#spinning.catch(() => undefined);
  }

  async stopSpinning(): Promise<void> {
    if (this.#spinning === undefined) return;
    this.#spinner.kick();
    const exit = await this.#spinning;
    this.#spinning = undefined;
    if (exit.reason !== 'interrupted' || exit.cause !== 'kick') throw new Error(`the spinning vCPU: ${exit.reason}`);
  }

  /** In one of the orders that there are. A run in progress is told that it was closed. */
  async close(order: number): Promise<void> {
    const parts = [this.memory, this.#worker, this.#spinner, this.vm];
    const spinning = this.#spinning;
    for (let turn = 0; turn < parts.length; turn++) parts[(order + turn) % parts.length]!.close();
    if (spinning === undefined) return;
    const end: unknown = await spinning.catch((error: unknown) => error);
    if ((end as { code?: unknown }).code !== 'ERR_KVM_CLOSED')
      throw new Error(`a run that was closed gave ${String(end)}`);
  }
}
