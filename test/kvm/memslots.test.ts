/** Memslots as the kernel takes them: what can be set, changed and deleted. */
import { describe, expect, onTestFinished } from 'vitest';
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY } from '../../lib/abi/index.ts';
import { HostMapping, Kvm } from '../../lib/kvm/index.ts';
import type { Vm, VmTypeName } from '../../lib/kvm/index.ts';
import { native } from '../../lib/native.ts';
import { kvmTest } from './support.ts';
import { expectExit, startAt } from './vcpu-guest.ts';

const PAGE = 4096;
const STATE = expect.objectContaining({ code: 'ERR_KVM_STATE' }) as Error;

function setUp(type: VmTypeName = 'default', size = 16 * PAGE): { vm: Vm; mapping: HostMapping } {
  const before = native().census();
  const kvm = Kvm.open();
  const vm = kvm.createVm(type);
  const mapping = HostMapping.anonymous(size);
  onTestFinished(() => {
    kvm.close();
    mapping.close();
    expect(native().census()).toEqual(before);
  });
  return { vm, mapping };
}

describe('slots', () => {
  for (const version of [1, 2] as const) {
    kvmTest(
      `are set, seen by the guest, moved and deleted, version ${version}`,
      { needs: version === 1 ? [] : ['KVM_CAP_USER_MEMORY2'] },
      () => {
        const { vm, mapping } = setUp();
        const set = (region: Parameters<Vm['setUserMemoryRegion']>[0]): void =>
          version === 1 ? vm.setUserMemoryRegion(region) : vm.setUserMemoryRegion2(region);
        set({ slot: 0, gpa: 0n, size: 4 * PAGE, mapping });
        set({ slot: 7, gpa: 0x8000n, size: PAGE, mapping, mappingOffset: 8 * PAGE });
        expect(vm.memslots.get(7)).toMatchObject({
          slot: 7,
          gpa: 0x8000n,
          size: PAGE,
          mappingOffset: 8 * PAGE,
          flags: 0,
        });
        expect([...vm.memslots.keys()]).toEqual([0, 7]);
        mapping.write(0x1000, Uint8Array.of(0xa0, 0x00, 0x80, 0xf4)); // mov al, [0x8000]; hlt
        mapping.write(8 * PAGE, Uint8Array.of(0x5a));
        const vcpu = vm.createVcpu(0);
        const read = (): ReturnType<typeof vcpu.runSync> => {
          startAt(vcpu, { rax: 0n });
          return vcpu.runSync({ timeoutMs: 10_000 });
        };
        expectExit(read(), 'hlt');
        expect(vcpu.getRegs().rax).toBe(0x5an);

        set({ slot: 7, gpa: 0xa000n, size: PAGE, mapping, mappingOffset: 8 * PAGE });
        expect(vm.memslots.get(7)!.gpa).toBe(0xa000n);
        expect(expectExit(read(), 'mmio').gpa).toBe(0x8000n);
        vcpu.runSync({ timeoutMs: 10_000 });

        set({ slot: 8, gpa: 0x8000n, size: PAGE, mapping, mappingOffset: 8 * PAGE });
        vm.deleteMemslot(7);
        expect([...vm.memslots.keys()]).toEqual([0, 8]);
        expectExit(read(), 'hlt');
        expect(() => vm.deleteMemslot(7)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
      },
    );
  }

  kvmTest('keep their memory when the mapping is closed', () => {
    const { vm } = setUp();
    const mapping = HostMapping.anonymous(4 * PAGE);
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 4 * PAGE, mapping });
    mapping.write(0x1000, Uint8Array.of(0xf4));
    const view = mapping.view();
    mapping.close();
    expect(view.byteLength).toBe(0);
    const vcpu = vm.createVcpu(0);
    startAt(vcpu);
    expectExit(vcpu.runSync({ timeoutMs: 10_000 }), 'hlt');
    vm.deleteMemslot(0);
  });

  kvmTest('turn dirty logging on and off, and change nothing else', () => {
    const { vm, mapping } = setUp();
    const region = { slot: 0, gpa: 0n, size: 4 * PAGE, mapping } as const;
    vm.setUserMemoryRegion(region);
    vm.setUserMemoryRegion({ ...region, flags: KVM_MEM_LOG_DIRTY_PAGES });
    expect(vm.memslots.get(0)!.flags).toBe(1);
    vm.setUserMemoryRegion(region);
    const other = HostMapping.anonymous(4 * PAGE);
    onTestFinished(() => other.close());
    for (const change of [
      { size: 2 * PAGE },
      { mapping: other },
      { mappingOffset: PAGE },
      { flags: KVM_MEM_READONLY },
    ]) {
      expect(() => vm.setUserMemoryRegion({ ...region, ...change })).toThrow(STATE);
    }
    expect(vm.memslots.get(0)).toMatchObject({ size: 4 * PAGE, mapping, mappingOffset: 0, flags: 0 });
  });

  kvmTest('that are read-only give MMIO exits for writes', { needs: ['KVM_CAP_READONLY_MEM'] }, () => {
    const { vm, mapping } = setUp();
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 4 * PAGE, mapping, flags: KVM_MEM_READONLY });
    mapping.write(0x1000, Uint8Array.of(0xc6, 0x06, 0x00, 0x30, 0x77, 0xf4)); // mov byte [0x3000], 0x77; hlt
    const vcpu = vm.createVcpu(0);
    startAt(vcpu);
    expect(expectExit(vcpu.runSync({ timeoutMs: 10_000 }), 'mmio')).toMatchObject({ direction: 'write', gpa: 0x3000n });
    expect(mapping.read(0x3000, 1)[0]).toBe(0);
  });

  kvmTest('may touch and may not overlap, in each address space', () => {
    const { vm, mapping } = setUp();
    const region = { size: 2 * PAGE, mapping };
    vm.setUserMemoryRegion({ slot: 0, gpa: 0x1_0000n, ...region });
    vm.setUserMemoryRegion({ slot: 1, gpa: 0x1_2000n, ...region });
    for (const gpa of [0xf000n, 0x1_0000n, 0x1_1000n, 0x1_3000n]) {
      expect(() => vm.setUserMemoryRegion({ slot: 2, gpa, ...region })).toThrow(
        /slot [01] has 0x1[02]000 to 0x1[24]000/,
      );
    }
    expect(() => vm.setUserMemoryRegion({ slot: 1, gpa: 0x1_1000n, ...region })).toThrow(/slot 0 has/);
    vm.setUserMemoryRegion({ slot: 1, gpa: 0x1_3000n, ...region });
    expect(vm.memslots.size).toBe(2);
    if (vm.checkExtension('KVM_CAP_MULTI_ADDRESS_SPACE') > 1) {
      vm.setUserMemoryRegion({ slot: 0x1_0000, gpa: 0x1_0000n, ...region });
      expect(() => vm.setUserMemoryRegion({ slot: 0x1_0001, gpa: 0x1_0000n, ...region })).toThrow(/slot 65536 has/);
    }
  });

  kvmTest('have a lowest number that is free', () => {
    const { vm, mapping } = setUp();
    const set = (slot: number): void =>
      vm.setUserMemoryRegion({ slot, gpa: BigInt(slot * PAGE), size: PAGE, mapping, mappingOffset: slot * PAGE });
    expect(vm.freeMemslot).toBe(0);
    for (const [slot, free] of [
      [0, 1],
      [2, 1],
      [1, 3],
      [5, 3],
    ] as const) {
      set(slot);
      expect(vm.freeMemslot).toBe(free);
    }
    vm.deleteMemslot(2);
    vm.deleteMemslot(5);
    expect(vm.freeMemslot).toBe(2);
    set(2);
    expect(vm.freeMemslot).toBe(3);
  });

  kvmTest('may be many', () => {
    const { vm, mapping } = setUp();
    for (let slot = 0; slot < 500; slot++) {
      vm.setUserMemoryRegion({
        slot,
        gpa: BigInt(slot) * 0x2000n,
        size: PAGE,
        mapping,
        mappingOffset: (slot % 16) * PAGE,
      });
    }
    expect(vm.memslots.size).toBe(500);
    for (let slot = 0; slot < 500; slot += 2) vm.deleteMemslot(slot);
    expect(vm.memslots.size).toBe(250);
    const last = vm.checkExtension('KVM_CAP_NR_MEMSLOTS') - 1;
    vm.setUserMemoryRegion({ slot: last, gpa: 0x1000n, size: PAGE, mapping });
    expect(() => vm.setUserMemoryRegion({ slot: last + 1, gpa: 0x5000n, size: PAGE, mapping })).toThrow(RangeError);
  });
});
