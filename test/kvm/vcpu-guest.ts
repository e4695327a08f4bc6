/** Guests of a few bytes of 16-bit code, for the tests of vCPUs. */
import { readFileSync } from 'node:fs';
import { expect, it, onTestFinished } from 'vitest';
import { HostMapping, Kvm } from '../../lib/kvm/index.ts';
import type { Vcpu, VcpuExit, VcpuExitOf, VcpuExitReason, Vm } from '../../lib/kvm/index.ts';
import type { Regs } from '../../lib/abi/index.ts';
import { kvmTest } from './support.ts';

export const CODE = 0x1000;
export const DATA = 0x2000;
const MEMORY = 0x1_0000;
/** The first address without memory behind it. */
export const MMIO = 0x10_0000n;

export const HLT = 0xf4;
/** jmp $ */
export const SPIN = [0xeb, 0xfe];
/** out 0x10, al */
export const OUT = [0xe6, 0x10];
/** in al, 0x10 */
export const IN = [0xe4, 0x10];

export interface Guest {
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly vcpu: Vcpu;
  /** 64 KiB at gpa 0. */
  readonly memory: Uint8Array;
}

export interface GuestOptions {
  /** What to do between making the VM and its vCPU. */
  readonly prepare?: (vm: Vm) => void;
  readonly regs?: Partial<Regs>;
  /** DS and ES start at {@link MMIO} instead of 0. */
  readonly mmio?: boolean;
}

/** A VM with one vCPU about to execute `code` in real mode. Closed when the test is over. */
export function realMode(code: readonly number[], { prepare, regs, mmio = false }: GuestOptions = {}): Guest {
  const kvm = Kvm.open();
  onTestFinished(() => kvm.close());
  const vm = kvm.createVm();
  const mapping = HostMapping.anonymous(MEMORY);
  onTestFinished(() => mapping.close());
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: MEMORY, mapping });
  const memory = mapping.view(0, MEMORY);
  memory.set(code, CODE);
  prepare?.(vm);
  const vcpu = vm.createVcpu(0);
  startAt(vcpu, { ...regs }, mmio);
  return { kvm, vm, vcpu, memory };
}

/** Real mode with flat segments from 0 and rip at {@link CODE}. */
export function startAt(vcpu: Vcpu, regs: Partial<Regs> = {}, mmio = false): void {
  const sregs = vcpu.getSregs();
  const data = { ...sregs.ds, base: mmio ? MMIO : 0n, selector: 0 };
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 }, ds: data, es: data });
  vcpu.updateRegs({ rip: BigInt(CODE), rflags: 2n, ...regs });
}

/** The exit as that member of the union, or a failed test. */
export function expectExit<R extends VcpuExitReason>(exit: VcpuExit, reason: R): VcpuExitOf<R> {
  expect(exit).toMatchObject({ reason });
  return exit as VcpuExitOf<R>;
}

const hardware = /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));

/**
 * For what only KVM on VMX or SVM does. A KVM without either (one that runs guests by emulation) takes some settings
 * without giving them effect.
 */
export function hardwareTest(name: string, test: () => void | Promise<void>): void {
  if (hardware) kvmTest(name, test);
  else it.skip(`${name} [needs a processor with VMX or SVM]`);
}
