/** Section 4: private memory that is not there ends a run with a memory fault. */
import { afterAll, describe, expect } from 'vitest';
import { HostMapping, Kvm } from '../../lib/index.ts';
import type { MemoryFaultExit, VcpuExit, Vm } from '../../lib/index.ts';
import { KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MEMORY_EXIT_FLAG_PRIVATE } from '../../lib/abi/index.ts';
import { LOW_SIZE, writeGuest } from './guest-code.ts';
import { fill, Guest, watch } from './guest-vcpu.ts';
import { PAGE, pointTest } from './support.ts';

const GPA = 3n << 30n;
const SLOT = 10;
const PRIVATE = BigInt(KVM_MEMORY_ATTRIBUTE_PRIVATE);
const needs = ['private-memory'] as const;

interface Scene {
  readonly vm: Vm;
  readonly guest: Guest;
  readonly mapping: HostMapping;
}

const opened: (() => void)[] = [];
afterAll(() => opened.splice(0).forEach((close) => close()));

/** A VM whose guest is to read one page at 3 GiB for ever. */
function scene(): Scene {
  const kvm = Kvm.open();
  const low = HostMapping.anonymous(LOW_SIZE);
  const mapping = HostMapping.anonymous(PAGE);
  opened.push(() => [kvm, low, mapping].forEach((each) => each.close()));
  const vm = kvm.createVm('sw-protected');
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: LOW_SIZE, mapping: low });
  writeGuest(low.view());
  const guest = new Guest(vm, 0, low.view());
  guest.write([watch(GPA)]);
  return { vm, guest, mapping };
}

const fault = (exit: VcpuExit): MemoryFaultExit => {
  if (exit.reason !== 'memory-fault') throw new Error(`Expected a memory fault and not ${exit.reason}`);
  return exit;
};

const played = new Map<string, Promise<VcpuExit>>();
/** Played once, for all of its points. */
const once = (name: string, play: () => Promise<VcpuExit>) => (): Promise<VcpuExit> => {
  const exit = played.get(name) ?? play();
  played.set(name, exit);
  return exit;
};

const slotRemoved = once('slot removed', async () => {
  const {
    vm,
    guest: { vcpu },
    mapping,
  } = scene();
  const guestMemfd = vm.createGuestMemfd(PAGE);
  vm.setUserMemoryRegion2({ slot: SLOT, gpa: GPA, size: PAGE, mapping, guestMemfd });
  vm.setMemoryAttributes({ address: GPA, size: PAGE, attributes: PRIVATE });
  const running = vcpu.run({ timeoutMs: 30_000 });
  vm.deleteMemslot(SLOT);
  return running;
});

const noGuestMemfd = once('no guest_memfd', () => {
  const {
    vm,
    guest: { vcpu },
    mapping,
  } = scene();
  vm.setUserMemoryRegion({ slot: SLOT, gpa: GPA, size: PAGE, mapping });
  vm.setMemoryAttributes({ address: GPA, size: PAGE, attributes: PRIVATE });
  return vcpu.run({ timeoutMs: 30_000 });
});

describe('4 memory-fault exits', () => {
  pointTest('4.1', { needs }, async () => {
    expect(await slotRemoved()).toMatchObject({ reason: 'memory-fault', errno: 'EFAULT' });
  });
  pointTest('4.2', { needs }, async () => {
    const { flags, private: isPrivate } = fault(await slotRemoved());
    expect([flags, isPrivate]).toEqual([BigInt(KVM_MEMORY_EXIT_FLAG_PRIVATE), true]);
  });
  pointTest('4.3', { needs }, async () => expect(fault(await slotRemoved()).gpa).toBe(GPA));
  pointTest('4.4', { needs }, async () => expect(fault(await slotRemoved()).size).toBe(BigInt(PAGE)));
  pointTest('4.5', { needs }, async () => {
    expect(await noGuestMemfd()).toMatchObject({ reason: 'memory-fault', errno: 'EFAULT' });
  });
  pointTest('4.6', { needs }, async () => {
    expect(await noGuestMemfd()).toMatchObject({
      flags: BigInt(KVM_MEMORY_EXIT_FLAG_PRIVATE),
      private: true,
      gpa: GPA,
      size: BigInt(PAGE),
    });
  });

  pointTest('4.7', { needs }, async () => {
    const { vm, guest, mapping } = scene();
    const { vcpu } = guest;
    const guestMemfd = vm.createGuestMemfd(PAGE);
    vm.setUserMemoryRegion2({ slot: SLOT, gpa: GPA, size: PAGE, mapping, guestMemfd });
    guest.write([fill({ gpa: GPA, size: PAGE }, 0x11)]);
    expect(guest.isDone(await vcpu.run({ timeoutMs: 30_000 }))).toBe(true);
    vm.setMemoryAttributes({ address: GPA, size: PAGE, attributes: PRIVATE });
    vm.deleteMemslot(SLOT);
    const again = [await vcpu.run({ timeoutMs: 30_000 }), await vcpu.run({ timeoutMs: 30_000 })];
    expect(again.map(({ reason }) => reason)).toEqual(['memory-fault', 'memory-fault']);
    expect(again.map((exit) => fault(exit).errno)).toEqual(['EFAULT', 'EFAULT']);
    // A run that the guest does not end fails otherwise, and does not show the fault that is left in the record.
    vcpu.kick();
    expect(await vcpu.run({ timeoutMs: 30_000 })).toMatchObject({ reason: 'interrupted', cause: 'kick' });
    vm.setMemoryAttributes({ address: GPA, size: PAGE, attributes: 0n, allowUnbacked: true });
    vm.setUserMemoryRegion({ slot: SLOT, gpa: GPA, size: PAGE, mapping });
    expect(guest.isDone(await vcpu.run({ timeoutMs: 30_000 }))).toBe(true);
    expect(mapping.view().every((byte) => byte === 0x11)).toBe(true);
  });
});
