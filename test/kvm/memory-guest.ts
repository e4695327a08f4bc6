/** VMs with a GuestMemory and a vCPU that runs a few bytes of 16-bit code, for the tests of lib/memory. */
import { setTimeout as sleep } from 'node:timers/promises';
import { onTestFinished } from 'vitest';
import { Kvm } from '../../lib/kvm/index.ts';
import type { Vcpu, VcpuExit, Vm, VmTypeName } from '../../lib/kvm/index.ts';
import { GuestMemory } from '../../lib/memory/index.ts';
import type { Backing, GuestMemoryOptions, PrivateSide } from '../../lib/memory/index.ts';
import { native } from '../../lib/native.ts';
import { kvmTest } from './support.ts';

export const PAGE = 4096;
export const CODE = 0x1000n;
export const SIZE = 16 * PAGE;

export interface Machine {
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly memory: GuestMemory;
  readonly vcpu: Vcpu;
  /** Runs from the start of `code`, up to the next exit. */
  run(code: readonly number[], regs?: Record<string, bigint>): VcpuExit;
  /** Goes on where it was. */
  resume(): VcpuExit;
  /** What the guest reads at an address below 64 KiB. */
  peek(gpa: bigint): number;
  /** Has the guest write a byte. */
  poke(gpa: bigint, value: number): void;
}

export interface MachineOptions extends GuestMemoryOptions {
  readonly type?: VmTypeName;
  /** What is behind the 64 KiB at gpa 0. */
  readonly backing?: Backing;
  readonly private?: PrivateSide;
  /** No memory at 0; `peek` and `poke` then have no room for their code. */
  readonly bare?: boolean;
  readonly prepare?: (vm: Vm) => void;
}

/** mov al, [gpa]; hlt */
export const load = (gpa: bigint): number[] => [0xa0, ...word(gpa), 0xf4];
/** mov byte [gpa], value; hlt */
export const store = (gpa: bigint, value: number): number[] => [0xc6, 0x06, ...word(gpa), value, 0xf4];

function word(gpa: bigint): [number, number] {
  if (gpa > 0xffffn) throw new RangeError(`0x${gpa.toString(16)} is beyond what 16-bit code reaches`);
  return [Number(gpa & 0xffn), Number(gpa >> 8n)];
}

let alive = 0;
let before: ReturnType<ReturnType<typeof native>['census']> | undefined;

/** Everything is closed when the test is over, and by then nothing of it may be left. */
export function machine({
  type = 'default',
  backing,
  private: side,
  bare = false,
  prepare,
  ...options
}: MachineOptions = {}): Machine {
  if (alive++ === 0) before = native().census();
  const kvm = Kvm.open();
  const vm = kvm.createVm(type);
  const memory = new GuestMemory(vm, options);
  onTestFinished(async () => {
    memory.close();
    kvm.close();
    if (--alive > 0) return;
    // A vCPU's thread ends soon after its vCPU, and not in the same call.
    for (let turn = 0; turn < 200 && leaked() !== undefined; turn++) await sleep(10);
    const what = leaked();
    if (what !== undefined) throw new Error(`leaked ${what}`);
  });
  if (!bare) {
    memory.add({
      gpa: 0n,
      size: SIZE,
      ...(backing === undefined ? {} : { backing }),
      ...(side === undefined ? {} : { private: side }),
    });
  }
  prepare?.(vm);
  const vcpu = vm.createVcpu(0);
  const sregs = vcpu.getSregs();
  const flat = { base: 0n, selector: 0 };
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, ...flat }, ds: { ...sregs.ds, ...flat }, es: { ...sregs.es, ...flat } });
  const resume = (): VcpuExit => vcpu.runSync({ timeoutMs: 10_000 });
  const run = (code: readonly number[], regs: Record<string, bigint> = {}): VcpuExit => {
    memory.write(CODE, Uint8Array.from(code));
    vcpu.updateRegs({ rip: CODE, rflags: 2n, ...regs });
    return resume();
  };
  const toHlt = (code: readonly number[]): void => {
    const exit = run(code);
    if (exit.reason !== 'hlt')
      throw new Error(`Expected hlt, not ${JSON.stringify(exit, (_k, v) => (typeof v === 'bigint' ? `${v}n` : v))}`);
  };
  return {
    kvm,
    vm,
    memory,
    vcpu,
    run,
    resume,
    peek(gpa) {
      toHlt(load(gpa));
      return Number(vcpu.getRegs().rax & 0xffn);
    },
    poke: (gpa, value) => toHlt(store(gpa, value)),
  };
}

/** What there is more of than before the first machine of the test, in words. */
function leaked(): string | undefined {
  const now = native().census();
  const more = (['files', 'mappings', 'threads'] as const).filter((what) => now[what] > before![what]);
  return more.length === 0
    ? undefined
    : more.map((what) => `${what}: ${before![what]} before, ${now[what]} after`).join('; ');
}

/** A test that needs a VM with private memory. */
export const privateTest = (name: string, run: () => unknown): void =>
  kvmTest(name, { needs: ['private-memory'] }, run);

/** A test that needs a guest_memfd which the host can map. */
export const mappedTest = (name: string, run: () => unknown): void =>
  kvmTest(name, { needs: ['mapped-guest-memfd'] }, run);
