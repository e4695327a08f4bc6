// Closing: in every order, while in use, twice, and things that only the collector closes.
import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { DirtyRing, Eventfd, GuestMemory, HostFile, HostMapping, Kvm, Vcpu, Vm } from '../../../lib/index.ts';
import { native } from '../../../lib/native.ts';
import { baseline, collect, count, main, makeGuest, OUT_LOOP, place, say, settled, SIZE, SPIN, turn } from './kit.ts';

interface Closes {
  close(): void;
  readonly closed: boolean;
}

function* permutations<T>(items: readonly T[]): Generator<T[]> {
  if (items.length === 0) yield [];
  for (const [index, item] of items.entries()) {
    for (const rest of permutations(items.toSpliced(index, 1))) yield [item, ...rest];
  }
}

/** Everything that hangs together: what one holds, another uses. */
function family(code: readonly number[]) {
  const doorbell = Eventfd.create();
  const interrupt = Eventfd.create();
  const { kvm, vm, vcpu, mapping } = makeGuest({
    code,
    prepare: (made) => {
      made.createIrqchip();
      made.irqfd({ eventfd: interrupt, gsi: 5 });
      made.ioeventfd({ eventfd: doorbell, address: 0x99n, pio: true, length: 1 });
    },
  });
  mapping.view();
  return { kvm, vm, vcpu, mapping, doorbell, interrupt };
}

const closedError = { code: 'ERR_KVM_CLOSED' };

/** Closes in every `step`th of the 720 orders, with `code` running or not, and expects nothing left after each. */
async function orders(step: number, code: readonly number[], busy: boolean): Promise<void> {
  const before = await baseline();
  let done = 0;
  const names = ['kvm', 'vm', 'vcpu', 'mapping', 'doorbell', 'interrupt'] as const;
  for (const [index, order] of [...permutations(names)].entries()) {
    if (index % step !== 0) continue;
    const made = family(code);
    const pending: Promise<unknown>[] = [];
    if (busy) pending.push(made.vcpu.run(), made.doorbell.wait());
    else assert.equal(made.vcpu.runSync().reason, 'io');
    const failed = pending.map((promise) => assert.rejects(promise, closedError));
    for (const name of order) made[name].close();
    await Promise.all(failed);
    for (const name of names) assert.equal(made[name].closed, true, `${name} of ${order}`);
    // Where a buffer was collected before it was detached, its finalizer comes in a turn of its own.
    for (let i = 0; i < 1000 && native().census().mappings !== before.addon.mappings; i++) await turn();
    assert.deepEqual(native().census(), before.addon, `${order}`);
    done++;
  }
  await settled(before);
  say(`${done} orders`);
}

/** One handle of each class, and what uses it. */
function everyClass(): [name: string, handle: Closes, use: () => unknown][] {
  const { kvm, vm, vcpu, mapping } = makeGuest({ prepare: (made) => made.enableDirtyLogRing(65536) });
  const eventfd = Eventfd.create();
  const file = HostFile.memfd(SIZE);
  const fileMapping = file.map();
  const again = mapping.again();
  const stats = vm.getStatsFd();
  const vcpuStats = vcpu.getStatsFd();
  // KVM_DEV_TYPE_VFIO
  const device = vm.createDevice(4);
  const ring = new DirtyRing(vcpu, 65536);
  const adopted = Vm.adopt(vm.share());
  const all: [string, Closes, () => unknown][] = [
    ['Stats of the vCPU', vcpuStats, () => vcpuStats.read()],
    ['Stats of the VM', stats, () => stats.read()],
    ['Device', device, () => device.hasDeviceAttr(0, 0n)],
    ['Vcpu', vcpu, () => vcpu.getRegs()],
    ['Vm', vm, () => vm.checkExtension('KVM_CAP_IRQCHIP')],
    ['adopted Vm', adopted, () => adopted.checkExtension('KVM_CAP_IRQCHIP')],
    ['Kvm', kvm, () => kvm.getApiVersion()],
    ['Eventfd', eventfd, () => eventfd.write()],
    ['another HostMapping', again, () => again.view()],
    ['HostMapping', mapping, () => mapping.read(0, 1)],
    ['HostMapping of a file', fileMapping, () => fileMapping.view()],
    ['HostFile', file, () => file.map()],
  ];
  ring.harvest();
  const type = kvm.vmTypes().includes('sw-protected') ? 'sw-protected' : 'default';
  try {
    const owner = kvm.createVm(type);
    const memfd = owner.createGuestMemfd(SIZE);
    all.unshift(
      ['GuestMemfd', memfd, () => memfd.fallocate(0, 4096)],
      ['Vm of the GuestMemfd', owner, () => owner.createVcpu(0)],
    );
  } catch (error) {
    // A kernel without them.
    assert.match((error as { code: string }).code, /EINVAL|ENOTTY|ERR_KVM_UNSUPPORTED/);
  }
  return all;
}

await main({
  idle: (step) => orders(Number(step), OUT_LOOP, false),
  running: (step) => orders(Number(step), SPIN, true),

  async twice() {
    const before = await baseline();
    const all = everyClass();
    const fillers: number[] = [];
    for (const [name, handle, use] of all) {
      use();
      const fd = (handle as { fd?: number }).fd;
      handle.close();
      assert.equal(handle.closed, true, name);
      // What takes the number next must not be closed by the second close.
      if (fd !== undefined) {
        assert.equal((handle as { fd?: number }).fd, -1, name);
        do fillers.push(openSync('/dev/null', 'r'));
        while (fillers.at(-1)! < fd);
      }
      handle.close();
      for (const filler of fillers) assert.ok(fstatSync(filler).isCharacterDevice(), name);
      assert.throws(use, closedError, name);
    }
    for (const filler of fillers) closeSync(filler);
    await settled(before);
    say(`${all.length} classes`);
  },

  async twiceMemory() {
    const before = await baseline();
    const vm = Kvm.open().createVm();
    const memory = new GuestMemory(vm);
    const region = memory.add({ gpa: 0n, size: SIZE });
    memory.remove(region);
    memory.remove(region);
    const other = memory.add({ gpa: 0n, size: SIZE });
    vm.close();
    memory.remove(other);
    vm.kvm.close();
    memory.close();
    memory.close();
    await settled(before);
  },

  async closeInsideRun() {
    const before = await baseline();
    for (let i = 0; i < 20; i++) {
      const { kvm, mapping, vcpu } = makeGuest();
      let exits = 0;
      for await (const exit of vcpu.exits()) {
        assert.equal(exit.reason, 'io');
        if (++exits === i) [kvm, vcpu, mapping][i % 3]!.close();
        if (exits > i + 3) break;
      }
      for (const handle of [mapping, kvm]) handle.close();
    }
    await settled(before);
  },

  async collected(rounds) {
    const before = await baseline();
    const make = () => {
      const { vm, vcpu, mapping } = makeGuest({
        prepare: (made) => {
          made.createIrqchip();
          made.irqfd({ eventfd: Eventfd.create(), gsi: 5 });
        },
      });
      mapping.view().fill(1, 0x2000);
      vm.getStatsFd().read();
      vcpu.runSync();
      HostFile.memfd(SIZE).map().view()[0] = 1;
      const memory = new GuestMemory(vm);
      memory.add({ gpa: 0x10_0000n, size: SIZE, slot: 7 });
      memory.view(0x10_0000n, SIZE)[0] = 1;
    };
    for (let i = 0; i < Number(rounds); i++) make();
    await settled(before);
  },

  async collectedAfterRun(rounds) {
    const before = await baseline();
    const make = () => {
      const { vm, vcpu } = makeGuest({ code: SPIN });
      const second = vm.createVcpu(1);
      place(second, 0x1000n);
      // Nobody holds the VM, its vCPUs or the promises: the run alone keeps what it uses until it ends.
      void vcpu.run({ timeoutMs: 50 });
      void second.run({ timeoutMs: 100 }).then((exit) => assert.equal(exit.reason, 'interrupted'));
    };
    for (let i = 0; i < Number(rounds); i++) {
      make();
      collect();
    }
    assert.notEqual(count().addon.threads, 0);
    await turn(10);
    await settled(before);
  },

  /** A running vCPU is not collected, since its promise may still be waited for. Once its run was ended, it is. */
  async collectedWhileRunning() {
    const before = await baseline();
    const gone: string[] = [];
    const registry = new FinalizationRegistry<string>((name) => gone.push(name));
    const tokens = (() => {
      const { vm, vcpu } = makeGuest({ code: SPIN });
      registry.register(vcpu, 'vcpu');
      vcpu.run().then(
        (exit) => say(exit.reason),
        () => {},
      );
      return { vm: vm.share(), vcpu: vcpu.share() };
    })();
    for (let i = 0; i < 10; i++) {
      collect();
      await turn(5);
    }
    assert.deepEqual(gone, []);
    const vm = Vm.adopt(tokens.vm);
    Vcpu.adopt(tokens.vcpu, vm).kick();
    vm.close();
    await settled(before);
    say(gone.join());
  },

  /** A view that outlives its handle holds the memory alone; a view of what was closed is empty. */
  async views() {
    const before = await baseline();
    let view: Uint8Array | undefined = (() => HostMapping.anonymous(SIZE, { shared: true }).view())();
    for (let i = 0; i < 5; i++) {
      collect();
      await turn(5);
      assert.equal(count().addon.mappings, 1);
      assert.equal(view.fill(i)[SIZE - 1], i);
    }
    view = undefined;
    await settled(before);
    const mapping = HostMapping.anonymous(SIZE, { shared: true });
    view = mapping.view();
    mapping.close();
    assert.equal(view.length, 0);
    await settled(before);
  },
});
