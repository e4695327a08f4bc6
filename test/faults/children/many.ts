// Many of them: VMs one after the other, and vCPUs at once.
import assert from 'node:assert/strict';
import { HostMapping, Kvm } from '../../../lib/index.ts';
import type { VcpuExit } from '../../../lib/index.ts';
import { native } from '../../../lib/native.ts';
import { baseline, collect, main, makeGuest, place, say, settled, turn } from './kit.ts';

const vcpusThatRun = async (
  count: number,
  end: (vm: ReturnType<Kvm['createVm']>) => void,
): Promise<PromiseSettledResult<VcpuExit>[]> => {
  const kvm = Kvm.open();
  const vm = kvm.createVm();
  const mapping = HostMapping.anonymous(0x10000, { shared: true });
  const memory = mapping.view();
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: mapping.length, mapping });
  const runs = Array.from({ length: count }, (_, id) => {
    // mov byte [0x8000 + id], 1; jmp $
    memory.set([0xc6, 0x06, id & 0xff, 0x80 | (id >> 8), 0x01, 0xeb, 0xfe], 0x1000 + 16 * id);
    const vcpu = vm.createVcpu(id);
    place(vcpu, BigInt(0x1000 + 16 * id));
    const run = vcpu.run();
    run.catch(() => {});
    return run;
  });
  // Who was here goes round and round from then on: when all were, all run.
  while (!memory.subarray(0x8000, 0x8000 + count).every((flag) => flag === 1)) await turn(5);
  assert.equal(native().census().threads, count);
  end(vm);
  const results = await Promise.allSettled(runs);
  kvm.close();
  mapping.close();
  return results;
};

await main({
  async closed(times) {
    const before = await baseline();
    for (let i = 0; i < Number(times); i++) {
      const { kvm, mapping, vcpu } = makeGuest();
      assert.equal((i % 10 === 0 ? await vcpu.run() : vcpu.runSync()).reason, 'io');
      kvm.close();
      mapping.close();
      assert.equal(native().census().files, 0);
    }
    await settled(before);
  },

  async dropped(times) {
    const before = await baseline();
    const make = (): VcpuExit => makeGuest().vcpu.runSync();
    let most = 0;
    for (let i = 0; i < Number(times); i++) {
      assert.equal(make().reason, 'io');
      // The collector sees little of what a VM costs, and its finalizers run in turns of the event loop.
      if (i % 50 === 49) {
        collect();
        await turn();
      }
      most = Math.max(most, native().census().files);
    }
    await settled(before);
    say(`${most}`);
  },

  async kicked(count) {
    const before = await baseline();
    const results = await vcpusThatRun(Number(count), (vm) => {
      for (const vcpu of vm.vcpus.values()) vcpu.kick();
    });
    const kick = { status: 'fulfilled', value: { reason: 'interrupted', cause: 'kick' } };
    assert.deepEqual(
      results,
      results.map(() => kick),
    );
    await settled(before);
    say(`${results.length}`);
  },

  async closedWhileRunning(count) {
    const before = await baseline();
    const results = await vcpusThatRun(Number(count), (vm) => vm.close());
    for (const result of results) {
      assert.equal(result.status, 'rejected');
      assert.equal(result.reason.code, 'ERR_KVM_CLOSED');
    }
    await settled(before);
    say(`${results.length}`);
  },
});
