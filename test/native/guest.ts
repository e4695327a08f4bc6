// A guest of a few bytes in real mode, made with the addon alone.
import { existsSync } from 'node:fs';
import { addonFile, native } from '../../lib/native.ts';
import type { NativeMapping, NativeSystem, NativeVcpu, NativeVm } from '../../lib/native.ts';

export const hasKvm = existsSync('/dev/kvm');
// The very file that the main thread loads: another copy of the addon would know nothing of this one's tokens.
export const addonPath = addonFile();

export const KVM_GET_REGS = 0x8090ae81;
export const KVM_SET_REGS = 0x4090ae82;
const KVM_GET_SREGS = 0x8138ae83;
const KVM_SET_SREGS = 0x4138ae84;

export const EXIT_IO = 2;
export const EXIT_HLT = 5;
export const EINTR = -4;

/** out 0x10, al; hlt */
export const OUT_HLT = [0xe6, 0x10, 0xf4];
/** jmp $ */
export const SPIN = [0xeb, 0xfe];
/** l: out 0x10, al; jmp l */
export const OUT_LOOP = [0xe6, 0x10, 0xeb, 0xfc];

export interface Guest {
  system: NativeSystem;
  vm: NativeVm;
  vcpu: NativeVcpu;
  memory: NativeMapping;
  /** Puts the code at 0x1000 and the vCPU there. */
  load(code: readonly number[]): void;
  close(): void;
}

export function makeGuest(code: readonly number[], size = 0x10000n): Guest {
  const addon = native();
  const system = addon.openSystem('/dev/kvm');
  const vm = system.createVm(0n);
  const memory = addon.mapAnonymous(size, { shared: false, hugetlb: 0, noreserve: false });
  vm.setUserMemoryRegion(1, 0, 0, 0n, size, memory, 0n, null, 0n);
  const vcpu = vm.createVcpu(0);
  const guest: Guest = {
    system,
    vm,
    vcpu,
    memory,
    load(bytes) {
      memory.write(0x1000n, new Uint8Array(bytes));
      realMode(vcpu);
      setRip(vcpu, 0x1000n);
    },
    close() {
      for (const handle of [vcpu, vm, memory, system]) handle.close();
    },
  };
  guest.load(code);
  return guest;
}

export function realMode(vcpu: NativeVcpu): void {
  const sregs = new Uint8Array(312);
  vcpu.ioctl(KVM_GET_SREGS, sregs);
  const view = new DataView(sregs.buffer);
  view.setBigUint64(0, 0n, true);
  view.setUint16(12, 0, true);
  vcpu.ioctl(KVM_SET_SREGS, sregs);
}

export function setRip(vcpu: NativeVcpu, rip: bigint): void {
  const regs = new Uint8Array(144);
  const view = new DataView(regs.buffer);
  view.setBigUint64(128, rip, true);
  view.setBigUint64(136, 2n, true);
  vcpu.ioctl(KVM_SET_REGS, regs);
}

/** The result of one command on the vCPU's own thread. `completions` must have been set up once. */
export function completions(vcpu: NativeVcpu): () => Promise<number> {
  let resolve: ((code: number) => void) | undefined;
  vcpu.onComplete((code) => resolve?.(code));
  return () =>
    new Promise((done) => {
      resolve = done;
    });
}

export const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** The census once it is what is expected, or after a while: buffers that were collected are given back a turn later. */
export async function settledCensus(expected: { files: number; mappings: number; threads: number }) {
  for (let i = 0; i < 100; i++) {
    const now = native().census();
    if (now.files === expected.files && now.mappings === expected.mappings && now.threads === expected.threads) break;
    (globalThis as { gc?: () => void }).gc?.();
    await sleep(10);
  }
  return native().census();
}
