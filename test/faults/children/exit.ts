// exit STAGE HOW: makes what the stage says, and ends. `exit` is process.exit(0); `end` leaves the event loop empty.
import { Worker } from 'node:worker_threads';
import { DirtyRing, Eventfd, GuestMemory, HostFile, HostMapping, Kvm } from '../../../lib/index.ts';
import type { Guest } from './kit.ts';
import { held, main, makeGuest, SPIN, turn } from './kit.ts';

const MIB = 2 ** 20;

function keep<T>(value: T): T {
  held.push(value);
  return value;
}

const guest = (options?: Parameters<typeof makeGuest>[0]): Guest => keep(makeGuest(options));

/** A VM with private memory, most of which nothing was touched of. */
function privateGuest(size: number): { memory: GuestMemory; vm: Guest['vm']; vcpu: Guest['vcpu'] } {
  const vm = keep(Kvm.open().createVm('sw-protected'));
  const memory = keep(new GuestMemory(vm));
  memory.add({ gpa: 0n, size, private: true });
  return { memory, vm, vcpu: keep(vm.createVcpu(0)) };
}

/** A promise that is pending at the end, and would be an unhandled rejection if it were not. */
function pending(promise: Promise<unknown>): void {
  promise.catch(() => {});
}

/** Where nothing is pending: both ways of ending are possible. */
const quiet: Record<string, () => unknown> = {
  open: () => keep(Kvm.open()),
  createVm: () => keep(Kvm.open().createVm()),
  memory: () => keep(HostMapping.anonymous(MIB).view()).fill(1),
  memfd: () => keep(HostFile.memfd(MIB).map().view()).fill(1),
  slot: () => {
    const vm = keep(Kvm.open().createVm());
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: MIB, mapping: HostMapping.anonymous(MIB) });
  },
  vcpu: () => guest(),
  run: () => guest().vcpu.runSync(),
  ranApart: () => guest().vcpu.run(),
  pendingExit: async () => {
    const { vcpu } = guest();
    await vcpu.run();
    vcpu.kick();
  },
  irqfd: () =>
    guest({
      prepare: (vm) => {
        vm.createIrqchip();
        const eventfd = keep(Eventfd.create());
        vm.irqfd({ eventfd, gsi: 5 });
        eventfd.write();
      },
    }),
  ioeventfd: () =>
    guest({
      prepare: (vm) =>
        vm.ioeventfd({ eventfd: keep(Eventfd.create()), address: 0x10n, pio: true, length: 1, datamatch: 77n }),
    }).vcpu.runSync(),
  coalesced: () => {
    const { vm, vcpu } = guest();
    vm.registerCoalescedMmio({ address: 0x10n, size: 1, pio: true });
    keep(vm.coalescedRing(vcpu));
    vcpu.runSync({ timeoutMs: 50 });
  },
  dirtyRing: () => {
    const { vcpu } = guest({ prepare: (vm) => vm.enableDirtyLogRing(65536) });
    keep(new DirtyRing(vcpu, 65536));
    vcpu.runSync();
  },
  stats: () => {
    const { vm, vcpu } = guest();
    keep(vm.getStatsFd()).read();
    keep(vcpu.getStatsFd()).read();
  },
  guestMemfd: () => {
    const kvm = Kvm.open();
    const type = kvm.vmTypes().includes('sw-protected') ? 'sw-protected' : 'default';
    keep(keep(kvm.createVm(type)).createGuestMemfd(MIB));
  },
  privateMemory: () => privateGuest(4 * MIB).memory.convert({ gpa: 0n, size: MIB, to: 'private' }),
};

/** Where something is pending, and only process.exit ends the program. */
const busy: Record<string, () => unknown> = {
  running: () => pending(guest({ code: SPIN }).vcpu.run()),
  runningForLong: async () => {
    pending(guest({ code: SPIN }).vcpu.run());
    await turn(100);
  },
  runningWithTimeout: () =>
    pending(guest({ code: SPIN }).vcpu.run({ timeoutMs: 1e6, signal: keep(new AbortController()).signal })),
  twoRunning: () => [0, 1].forEach(() => pending(guest({ code: SPIN }).vcpu.run())),
  eventfdWait: () => pending(keep(Eventfd.create()).wait()),
  exitsLoop: async () => {
    let count = 0;
    for await (const exit of guest().vcpu.exits()) if (exit.reason === 'io' && ++count === 100) return;
  },
  exitInsideLoop: async () => {
    let count = 0;
    for await (const exit of guest().vcpu.exits()) if (exit.reason === 'io' && ++count === 100) process.exit(0);
  },
  exitInsideWait: async () => {
    const eventfd = keep(Eventfd.create());
    pending(eventfd.wait().then(() => process.exit(0)));
    eventfd.write();
    await turn(1e6);
  },
  closeInExitHandler: () => {
    const { kvm, mapping, vcpu } = guest({ code: SPIN });
    pending(vcpu.run());
    process.on('exit', () => (kvm.close(), mapping.close()));
  },
  runInExitHandler: () => {
    const { vcpu } = guest();
    process.on('exit', () => {
      if (vcpu.runSync().reason !== 'io') process.exitCode = 9;
    });
  },
  advicePending: () => {
    const mapping = keep(HostMapping.anonymous(32 * MIB));
    pending(mapping.madviseAsync(0, 32 * MIB, 'populate-write'));
  },
  workerRunning: async () => {
    const worker = new Worker(new URL('worker.mjs', import.meta.url), { argv: ['runSync'] });
    await new Promise((ready) => {
      worker.once('message', ready);
    });
  },
  conversionPending: () =>
    pending(privateGuest(1024 * MIB).memory.convertAsync({ gpa: 0n, size: 1024 * MIB, to: 'private' })),
  allocationPending: () => pending(privateGuest(64 * MIB).memory.allocateAsync({ gpa: 0n, size: 64 * MIB })),
  prefaultPending: () => {
    const { memory, vcpu } = privateGuest(64 * MIB);
    pending(memory.prefault({ gpa: 0n, size: 64 * MIB, vcpus: [vcpu] }));
  },
  exitInConversion: () => {
    const { memory } = privateGuest(MIB);
    memory.on('conversion', () => process.exit(0));
    memory.convert({ gpa: 0n, size: MIB, to: 'private' });
    process.exit(1);
  },
  /** As many of these as one process can have at once. */
  everything: async () => {
    const alone = /^(exit|close|runIn|privateMemory|conversion|allocation|prefault|guestMemfd|exits)/;
    for (const [name, stage] of Object.entries({ ...quiet, ...busy })) {
      if (name !== 'everything' && !alone.test(name)) await stage();
    }
  },
};

const stages = Object.entries({ ...quiet, ...busy }).map(([name, stage]) => [
  name,
  async (how?: string) => {
    await stage();
    if (how === 'exit') process.exit(0);
  },
]);

await main(Object.fromEntries(stages));
