// A worker thread that is in the middle of `argv[2]` when it is terminated. It says when it begins, and never ends itself.
import { parentPort } from 'node:worker_threads';
import { Eventfd, GuestMemory, HostMapping, Kvm } from '../../../lib/index.ts';
import { held, makeGuest, SPIN } from './kit.ts';

const MIB = 2 ** 20;

function privateGuest() {
  const vm = Kvm.open().createVm('sw-protected');
  const memory = new GuestMemory(vm);
  memory.add({ gpa: 0n, size: 512 * MIB, private: true });
  const vcpu = vm.createVcpu(0);
  held.push(vm, memory, vcpu);
  return { memory, vcpu };
}

const begun = (): void => parentPort!.postMessage('begun');

const tasks: Record<string, () => unknown> = {
  runSync: () => {
    const { vcpu } = makeGuest({ code: SPIN });
    begun();
    vcpu.runSync();
  },
  run: () => {
    const run = makeGuest({ code: SPIN }).vcpu.run();
    begun();
    return run;
  },
  exits: async () => {
    const { vcpu } = makeGuest();
    begun();
    for await (const exit of vcpu.exits()) if (exit.reason !== 'io') throw new Error(exit.reason);
  },
  wait: () => {
    const wait = Eventfd.create().wait();
    begun();
    return wait;
  },
  advise: async () => {
    const mapping = HostMapping.anonymous(64 * MIB, { shared: true });
    held.push(mapping, mapping.view());
    begun();
    for (;;) {
      await mapping.madviseAsync(0, 64 * MIB, 'populate-write');
      await mapping.madviseAsync(0, 64 * MIB, 'dontneed');
    }
  },
  convert: async () => {
    const { memory } = privateGuest();
    begun();
    for (;;)
      for (const to of ['private', 'shared'] as const) await memory.convertAsync({ gpa: 0n, size: 512 * MIB, to });
  },
  convertSync: () => {
    const { memory } = privateGuest();
    begun();
    for (;;) for (const to of ['private', 'shared'] as const) memory.convert({ gpa: 0n, size: 512 * MIB, to });
  },
  prefault: async () => {
    const { memory, vcpu } = privateGuest();
    begun();
    for (;;) {
      await memory.prefault({ gpa: 0n, size: 16 * MIB, vcpus: [vcpu] });
      memory.discard({ gpa: 0n, size: 16 * MIB, side: 'shared' });
    }
  },
};

await tasks[process.argv[2]!]!();
