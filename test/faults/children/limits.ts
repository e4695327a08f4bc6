// Limits of the process that are reached: errors, nothing lost, and work that goes on.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { Eventfd, GuestMemory, HostFile, HostMapping, Kvm, KvmSystemError } from '../../../lib/index.ts';
import type { Vcpu, Vm } from '../../../lib/index.ts';
import { native } from '../../../lib/native.ts';
import { baseline, main, makeGuest, place, say, settled, SIZE } from './kit.ts';

const MIB = 2 ** 20;

interface Closes {
  close(): void;
}

/** Takes descriptors until `left` are free. What it gives closes them. */
function occupy(left: number): () => void {
  const taken: number[] = [];
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'));
  } catch (error) {
    assert.equal((error as { code: string }).code, 'EMFILE');
  }
  assert.ok(taken.length >= left, `only ${taken.length} were free`);
  for (const fd of taken.splice(0, left)) closeSync(fd);
  return () => taken.forEach((fd) => closeSync(fd));
}

/** How many descriptors are free. */
function free(): number {
  const taken: number[] = [];
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'));
  } catch {
    for (const fd of taken) closeSync(fd);
  }
  return taken.length;
}

/** Everything that takes a descriptor, in turn; and what still works where the turn ends early. */
class Machine {
  readonly made: Closes[] = [];
  kvm: Kvm | undefined;
  vm: Vm | undefined;
  vcpu: Vcpu | undefined;
  readonly mapping = HostMapping.anonymous(SIZE, { shared: true });

  readonly steps: readonly (readonly [name: string, step: () => unknown])[] = [
    [
      'Kvm.open',
      () => {
        this.kvm = this.#keep(Kvm.open());
      },
    ],
    [
      'createVm',
      () => {
        this.vm = this.#keep(this.kvm!.createVm(this.type));
      },
    ],
    ['Eventfd.create', () => this.#keep(Eventfd.create())],
    ['createGuestMemfd', () => this.guestMemfd && this.#keep(this.vm!.createGuestMemfd(SIZE))],
    [
      'createVcpu',
      () => {
        this.mapping.write(0x1000, Uint8Array.of(0xe6, 0x10, 0xeb, 0xfc));
        this.vm!.setUserMemoryRegion({ slot: 0, gpa: 0n, size: SIZE, mapping: this.mapping });
        this.vcpu = this.#keep(this.vm!.createVcpu(0));
        place(this.vcpu, 0x1000n);
      },
    ],
    ['getStatsFd of the VM', () => this.#keep(this.vm!.getStatsFd()).read()],
    ['getStatsFd of the vCPU', () => this.#keep(this.vcpu!.getStatsFd()).read()],
    // KVM_DEV_TYPE_VFIO
    ['createDevice', () => this.#keep(this.vm!.createDevice(4))],
    ['HostFile.memfd', () => this.#keep(HostFile.memfd(SIZE))],
    ['HostFile.open', () => this.#keep(HostFile.open(process.execPath))],
    [
      'GuestMemory.add of a memfd',
      () => {
        const memory = new GuestMemory(this.vm!);
        this.#keep(memory);
        memory.add({
          gpa: 0x100_0000n,
          size: SIZE,
          slot: 9,
          backing: { kind: 'memfd' },
          ...(this.private ? { private: true } : {}),
        });
      },
    ],
  ];

  readonly guestMemfd: boolean;
  readonly private: boolean;
  readonly type: 'default' | 'sw-protected';

  constructor() {
    const kvm = Kvm.open();
    this.private = kvm.vmTypes().includes('sw-protected');
    this.type = this.private ? 'sw-protected' : 'default';
    const vm = kvm.createVm(this.type);
    this.guestMemfd = vm.checkExtension('KVM_CAP_GUEST_MEMFD') !== 0;
    kvm.close();
  }

  #keep<T extends Closes>(handle: T): T {
    this.made.push(handle);
    return handle;
  }

  /** Every handle made so far still does what it should. */
  async use(): Promise<void> {
    this.kvm?.getApiVersion();
    this.vm?.checkExtension('KVM_CAP_IRQCHIP');
    this.mapping.read(0, SIZE);
    if (this.vcpu === undefined) return;
    assert.equal(this.vcpu.runSync().reason, 'io');
    // The vCPU's thread needs no descriptor.
    assert.equal((await this.vcpu.run()).reason, 'io');
  }

  close(): void {
    for (const handle of this.made.reverse()) handle.close();
    this.mapping.close();
  }
}

const setLimit = (resource: string, bytes: number | 'unlimited'): void => {
  // The soft limit alone, which may be raised again.
  execFileSync('prlimit', ['--pid', `${process.pid}`, `--${resource}=${bytes}:`], { stdio: 'pipe' });
};

const virtualSize = (): number =>
  1024 * Number(/^VmSize:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]);

const isError =
  (code: string) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof KvmSystemError, String(error));
    assert.equal(error.code, code);
    return true;
  };

await main({
  /** Under `prlimit --nofile`: with 0, 1, 2, ... descriptors free, until they are enough. */
  async files() {
    const before = await baseline();
    const failed: string[] = [];
    for (let left = 0; ; left++) {
      const machine = new Machine();
      const giveBack = occupy(left);
      let failure: string | undefined;
      for (const [name, step] of machine.steps) {
        const had = free();
        try {
          step();
        } catch (error) {
          isError('EMFILE')(error);
          assert.match((error as Error).message, /EMFILE/);
          // What failed took nothing.
          assert.equal(free(), had, name);
          failure = name;
          break;
        }
      }
      await machine.use();
      machine.close();
      assert.deepEqual(native().census(), before.addon);
      assert.equal(free(), left);
      giveBack();
      if (failure === undefined) break;
      if (failed.at(-1) !== failure) failed.push(failure);
    }
    await settled(before);
    say(failed.join(', '));
  },

  async waitWithoutFiles() {
    const before = await baseline();
    const eventfd = Eventfd.create();
    const giveBack = occupy(0);
    // libuv watches it with what it has.
    const value = eventfd.wait();
    eventfd.write(3n);
    assert.equal(await value, 3n);
    giveBack();
    eventfd.close();
    await settled(before);
  },

  async addressSpace() {
    const before = await baseline();
    const guest = makeGuest();
    // Whole pieces are refused while V8 still finds room for its own.
    setLimit('as', virtualSize() + 4 * 256 * MIB + 192 * MIB);
    const pieces: HostMapping[] = [];
    for (let round = 0; round < 3; round++) {
      assert.throws(() => {
        for (;;) pieces.push(HostMapping.anonymous(256 * MIB));
      }, isError('ENOMEM'));
      assert.ok(pieces.length >= 3, `${pieces.length} fit`);
      assert.throws(() => HostFile.memfd(256 * MIB).map(), isError('ENOMEM'));
      const memory = new GuestMemory(guest.vm);
      assert.throws(() => memory.add({ gpa: 0x1000_0000n, size: 256 * MIB, slot: 3 }), isError('ENOMEM'));
      assert.deepEqual(memory.regions, []);
      assert.equal(guest.vm.memslots.size, 1);
      assert.equal(guest.vcpu.runSync().reason, 'io');
      assert.equal((await guest.vcpu.run()).reason, 'io');
      for (const piece of pieces.splice(0)) piece.close();
      // Room again.
      memory.add({ gpa: 0x1000_0000n, size: 256 * MIB, slot: 3 });
      memory.close();
    }
    setLimit('as', 'unlimited');
    HostMapping.anonymous(2048 * MIB, { noreserve: true }).close();
    guest.kvm.close();
    guest.mapping.close();
    await settled(before);
  },

  /** No room for the stack of a vCPU's thread. */
  async thread() {
    const guest = makeGuest();
    assert.equal(guest.vcpu.runSync().reason, 'io');
    setLimit('as', virtualSize() + 6 * MIB);
    const failure = await guest.vcpu.run().then(
      (exit) => exit,
      (error: unknown) => error,
    );
    setLimit('as', 'unlimited');
    isError('EAGAIN')(failure);
    assert.equal(native().census().threads, 0);
    assert.equal(guest.vcpu.runSync().reason, 'io');
    assert.equal((await guest.vcpu.run()).reason, 'io');
    guest.kvm.close();
    guest.mapping.close();
    assert.deepEqual(native().census(), { files: 0, mappings: 0, threads: 0 });
  },

  /** Under `prlimit --memlock=0`: nothing here is locked. */
  async memlock() {
    const before = await baseline();
    const guest = makeGuest({ prepare: (vm) => vm.createIrqchip() });
    guest.mapping.madvise(0, SIZE, 'populate-write');
    assert.equal(guest.vcpu.runSync().reason, 'io');
    assert.equal((await guest.vcpu.run()).reason, 'io');
    guest.kvm.close();
    guest.mapping.close();
    await settled(before);
  },
});
