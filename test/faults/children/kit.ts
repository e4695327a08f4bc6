// What the programs share: a guest, and the counts of what this process holds.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync, writeSync } from 'node:fs';
import { HostMapping, Kvm } from '../../../lib/index.ts';
import type { Vcpu, Vm, VmTypeName } from '../../../lib/index.ts';
import { native } from '../../../lib/native.ts';

/** jmp $ */
export const SPIN = [0xeb, 0xfe];
/** l: out 0x10, al; jmp l */
export const OUT_LOOP = [0xe6, 0x10, 0xeb, 0xfc];

/** The program's end does not close these: nothing collects them before. */
export const held: unknown[] = [];

export const collect = (globalThis as { gc?: () => void }).gc!;
export const turn = (ms = 0): Promise<void> =>
  new Promise((done) => {
    setTimeout(done, ms);
  });

/** A line to the parent, at once. */
export function say(line: string): void {
  writeSync(1, `${line}\n`);
}

export interface GuestOptions {
  readonly type?: VmTypeName;
  /** Called before memory and vCPU are made. */
  readonly prepare?: (vm: Vm) => void;
  readonly code?: readonly number[];
}

export interface Guest {
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly mapping: HostMapping;
  readonly vcpu: Vcpu;
}

export const SIZE = 0x10000;

/** 64 KiB of shared memory at gpa 0, named in /proc/self/maps, the code at 0x1000, and a vCPU there. */
export function makeGuest({ type = 'default', prepare, code = OUT_LOOP }: GuestOptions = {}): Guest {
  const kvm = Kvm.open();
  const vm = kvm.createVm(type);
  prepare?.(vm);
  const mapping = HostMapping.anonymous(SIZE, { shared: true });
  mapping.write(0x1000, Uint8Array.from(code));
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: SIZE, mapping });
  const vcpu = vm.createVcpu(0);
  place(vcpu, 0x1000n);
  return { kvm, vm, mapping, vcpu };
}

/** Real mode, at `rip`. */
export function place(vcpu: Vcpu, rip: bigint): void {
  vcpu.updateSregs({ cs: { ...vcpu.getSregs().cs, base: 0n, selector: 0 } });
  vcpu.updateRegs({ rip, rflags: 2n });
}

export interface Counts {
  /** All descriptors of the process. */
  readonly descriptors: number;
  /** Mappings that name KVM or shared memory, which the guests' memory is. */
  readonly mapped: number;
  /** All threads of the process. */
  readonly tasks: number;
  /** What the addon says of itself. */
  readonly addon: { readonly files: number; readonly mappings: number; readonly threads: number };
}

export function count(): Counts {
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return {
    // Without the one that reads the directory.
    descriptors: readdirSync('/proc/self/fd').length - 1,
    mapped: maps.filter((line) => /\/dev\/zero|memfd|kvm/.test(line) && !line.includes('.node')).length,
    tasks: readdirSync('/proc/self/task').length,
    addon: native().census(),
  };
}

/** What the descriptors are, for a message that helps. */
export function descriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      return [];
    }
  });
}

/**
 * Asserts that the counts come to `before`. What was detached or collected is given back a turn later, a thread leaves
 * the list a moment after it was joined, and the kernel ends the helper threads of a VM in its own time.
 */
export async function settled(before: Counts): Promise<void> {
  const end = Date.now() + 60_000;
  for (;;) {
    try {
      assert.deepEqual(count(), before);
      return;
    } catch (error) {
      if (Date.now() > end) throw Object.assign(error as Error, { descriptors: descriptors() });
    }
    collect();
    await turn(5);
  }
}

/** Has Node open and start now what it opens and starts at the first use, then counts. */
export async function baseline(): Promise<Counts> {
  const { kvm, mapping, vcpu } = makeGuest();
  vcpu.runSync();
  assert.equal((await vcpu.run()).reason, 'io');
  await mapping.madviseAsync(0, SIZE, 'populate-write');
  kvm.close();
  mapping.close();
  // The thread pool's threads, V8's and the addon's watchdog are there; those of the VM may be about to go.
  let last = count();
  for (let quiet = 0; quiet < 10;) {
    collect();
    await turn(10);
    const now = count();
    quiet = JSON.stringify(now) === JSON.stringify(last) ? quiet + 1 : 0;
    last = now;
  }
  assert.deepEqual(last.addon, { files: 0, mappings: 0, threads: 0 });
  return last;
}

export type Stages = Readonly<Record<string, (...input: string[]) => unknown>>;

/** Runs the stage that the command line names. */
export async function main(stages: Stages): Promise<void> {
  const [name, ...input] = process.argv.slice(2);
  const stage = stages[name!];
  assert.ok(stage, `no stage ${name}`);
  await stage(...input);
}
