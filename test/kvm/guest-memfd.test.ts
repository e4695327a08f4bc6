/** guest_memfd and memory attributes: flags, binding, content, and what each kernel refuses. */
import { describe, expect, onTestFinished } from 'vitest';
import {
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  KVM_MEMORY_ATTRIBUTE_PRIVATE,
} from '../../lib/abi/index.ts';
import { KvmUnsupportedError } from '../../lib/errors.ts';
import { HostMapping, Kvm } from '../../lib/kvm/index.ts';
import type { GuestMemfd, Vcpu, Vm, VmTypeName } from '../../lib/kvm/index.ts';
import { native } from '../../lib/native.ts';
import { kvmTest } from './support.ts';
import { expectExit, startAt } from './vcpu-guest.ts';

const PAGE = 4096;
const SIZE = 16 * PAGE;
const BOTH = BigInt(GUEST_MEMFD_FLAG_MMAP) | BigInt(GUEST_MEMFD_FLAG_INIT_SHARED);
const PRIVATE = KVM_MEMORY_ATTRIBUTE_PRIVATE;
const NEEDS_MAPPED = { needs: ['mapped-guest-memfd'] } as const;
const NEEDS_PRIVATE = { needs: ['private-memory'] } as const;
const CLOSED = expect.objectContaining({ code: 'ERR_KVM_CLOSED' }) as Error;
const STATE = expect.objectContaining({ code: 'ERR_KVM_STATE' }) as Error;

const load = (address: number): number[] => [0xa0, address & 0xff, address >> 8, 0xf4]; // mov al, [address]; hlt
const store = (address: number, value: number): number[] => [0xc6, 0x06, address & 0xff, address >> 8, value, 0xf4];

function setUp(type: VmTypeName): { kvm: Kvm; vm: Vm; mapping: HostMapping } {
  const before = native().census();
  const kvm = Kvm.open();
  const vm = kvm.createVm(type);
  const mapping = HostMapping.anonymous(SIZE);
  onTestFinished(() => {
    kvm.close();
    mapping.close();
    expect(native().census()).toEqual(before);
  });
  return { kvm, vm, mapping };
}

/** Runs a few bytes of code at 0x1000 of `mapping`, up to its HLT; gives AL. */
function run(vcpu: Vcpu, mapping: HostMapping, code: readonly number[]): number {
  mapping.write(0x1000, Uint8Array.from(code));
  startAt(vcpu, { rax: 0n });
  expectExit(vcpu.runSync({ timeoutMs: 10_000 }), 'hlt');
  return Number(vcpu.getRegs().rax & 0xffn);
}

describe('a guest_memfd', () => {
  kvmTest('allocates, punches and ends with its VM', { needs: ['KVM_CAP_USER_MEMORY2'] }, async () => {
    const { vm } = setUp('default');
    const gmem = vm.createGuestMemfd(SIZE);
    expect([gmem.vm === vm, gmem.size, gmem.flags, gmem.hostMapped, gmem.closed]).toEqual([
      true,
      BigInt(SIZE),
      0n,
      false,
      false,
    ]);
    gmem.fallocate(0n, SIZE);
    gmem.punchHole(BigInt(PAGE), BigInt(PAGE));
    await gmem.fallocateAsync(PAGE, PAGE);
    await gmem.punchHoleAsync(0n, SIZE);
    expect(() => gmem.fallocate(0n, SIZE + PAGE)).toThrow(RangeError);
    expect(() => gmem.fallocate(BigInt(SIZE), PAGE)).toThrow(RangeError);
    expect(() => gmem.fallocate(1n, PAGE)).toThrow(RangeError);
    expect(() => gmem.punchHole(0n, 0)).toThrow(RangeError);
    expect(() => gmem.punchHole(0n, 100)).toThrow(RangeError);
    await expect(gmem.punchHoleAsync(0n, 1)).rejects.toThrow(RangeError);
    expect(() => gmem.map()).toThrow(/without GUEST_MEMFD_FLAG_MMAP/);
    vm.close();
    expect([gmem.closed, gmem.fd]).toEqual([true, -1]);
    expect(() => gmem.punchHole(0n, PAGE)).toThrow(CLOSED);
    expect(() => gmem.map()).toThrow(CLOSED);
    await expect(gmem.fallocateAsync(0n, PAGE)).rejects.toThrow(CLOSED);
  });

  kvmTest('takes no other flags and sizes than the VM offers', { needs: ['KVM_CAP_USER_MEMORY2'] }, () => {
    const { vm } = setUp('default');
    const offered = BigInt(vm.checkExtension('KVM_CAP_GUEST_MEMFD_FLAGS'));
    for (const flags of [1n, 2n, 3n, 4n, 1n << 63n]) {
      if ((flags & ~offered) === 0n) vm.createGuestMemfd(PAGE, { flags }).close();
      else expect(() => vm.createGuestMemfd(PAGE, { flags })).toThrow(KvmUnsupportedError);
    }
    if (offered === 0n) expect(() => vm.createGuestMemfd(PAGE, { flags: 3n })).toThrow(/MMAP and .*INIT_SHARED.*6\.18/);
    for (const size of [0, 4095, -4096, 0n, 4097n, 1n << 63n])
      expect(() => vm.createGuestMemfd(size)).toThrow(RangeError);
    expect(() => vm.createGuestMemfd(PAGE, { flags: 1 as never })).toThrow(TypeError);
    expect(() => vm.createGuestMemfd(PAGE, { flag: 1n } as never)).toThrow(/did you mean flags/);
    vm.createGuestMemfd(0x7fff_ffff_ffff_f000n).close();
  });

  kvmTest(
    'of a default VM cannot be bound before Linux 6.18, and the error says so',
    { needs: ['no-guest-memfd-on-default'] },
    () => {
      const { vm, mapping } = setUp('default');
      const guestMemfd = vm.createGuestMemfd(SIZE);
      expect(() => vm.setUserMemoryRegion2({ slot: 0, gpa: 0n, size: SIZE, mapping, guestMemfd })).toThrow(
        expect.objectContaining({
          code: 'EINVAL',
          hint: expect.stringMatching(/can be made but not bound.*sw-protected.*6\.18/) as string,
        }),
      );
      expect(vm.memslots.size).toBe(0);
    },
  );
});

describe('a guest_memfd that the host maps', () => {
  kvmTest("is the guest's memory and the host's, with no mapping given", NEEDS_MAPPED, () => {
    const { vm } = setUp('default');
    const gmem = vm.createGuestMemfd(SIZE, { flags: BOTH });
    vm.setUserMemoryRegion2({ slot: 0, gpa: 0n, size: SIZE, guestMemfd: gmem });
    using view = gmem.map();
    expect([view.stable, view.length, view.origin]).toEqual([true, SIZE, { file: gmem, offset: 0 }]);
    const vcpu = vm.createVcpu(0);
    run(vcpu, view, store(0x3000, 0x77));
    expect(view.read(0x3000, 1)[0]).toBe(0x77);
    view.view()[0x3000] = 0x66;
    expect(run(vcpu, view, load(0x3000))).toBe(0x66);
    gmem.punchHole(0x3000n, PAGE);
    expect([view.view()[0x3000], run(vcpu, view, load(0x3000))]).toEqual([0, 0]);
  });

  kvmTest('outlives its slot, and keeps its content', NEEDS_MAPPED, () => {
    const { vm } = setUp('default');
    const gmem = vm.createGuestMemfd(SIZE, { flags: BOTH });
    using memory = gmem.map(0n, SIZE);
    vm.setUserMemoryRegion2({ slot: 0, gpa: 0n, size: SIZE, mapping: memory, guestMemfd: gmem });
    const vcpu = vm.createVcpu(0);
    run(vcpu, memory, store(0x3000, 0x42));
    vm.deleteMemslot(0);
    vm.setUserMemoryRegion2({ slot: 5, gpa: 0n, size: 8 * PAGE, guestMemfd: gmem });
    expect(run(vcpu, memory, load(0x3000))).toBe(0x42);
  });

  kvmTest('is bound with its own mapping at the same offset, unless told otherwise', NEEDS_MAPPED, () => {
    const { vm, mapping } = setUp('default');
    const gmem = vm.createGuestMemfd(SIZE, { flags: BOTH });
    using own = gmem.map(BigInt(PAGE), 4 * PAGE);
    using again = own.again();
    const region = { slot: 0, gpa: 0n, size: 2 * PAGE, guestMemfd: gmem, guestMemfdOffset: BigInt(2 * PAGE) };
    expect(() => vm.setUserMemoryRegion2({ ...region, mapping })).toThrow(
      /of the guest_memfd itself at offset 8192.*allowForeignMapping/,
    );
    expect(() => vm.setUserMemoryRegion2({ ...region, mapping: own })).toThrow(TypeError);
    expect(vm.memslots.size).toBe(0);
    vm.setUserMemoryRegion2({ ...region, mapping: again, mappingOffset: PAGE });
    vm.deleteMemslot(0);
    vm.setUserMemoryRegion2({ ...region, mapping, allowForeignMapping: true });
  });

  kvmTest('and was made without INIT_SHARED is never mapped', NEEDS_MAPPED, () => {
    const { vm } = setUp('default');
    const gmem = vm.createGuestMemfd(SIZE, { flags: BigInt(GUEST_MEMFD_FLAG_MMAP) });
    expect(() => gmem.map()).toThrow(/without GUEST_MEMFD_FLAG_INIT_SHARED/);
  });

  kvmTest('refuses ranges past its end', NEEDS_MAPPED, () => {
    const { vm } = setUp('default');
    const gmem = vm.createGuestMemfd(SIZE, { flags: BOTH });
    expect(() => gmem.map(BigInt(SIZE))).toThrow(RangeError);
    expect(() => gmem.map(0n, SIZE + PAGE)).toThrow(RangeError);
    expect(() => gmem.map(1n)).toThrow(RangeError);
    expect(() => gmem.map('0' as never)).toThrow(TypeError);
    using part = gmem.map(BigInt(SIZE - PAGE));
    expect(part.length).toBe(PAGE);
  });
});

/** What binding refuses; on any VM that can bind one. */
function bindingRefusals(vm: Vm, kvm: Kvm, mapping: HostMapping, make: (vm: Vm) => GuestMemfd, type: VmTypeName): void {
  const gmem = make(vm);
  const bind = (region: object): void =>
    vm.setUserMemoryRegion2({ slot: 1, gpa: 0n, size: PAGE, guestMemfd: gmem, ...region });
  bind({ slot: 0, gpa: 0x10_0000n, size: 4 * PAGE });
  const snapshot = (): string => JSON.stringify([...vm.memslots.keys()]);
  const before = snapshot();
  expect(() => bind({ guestMemfdOffset: BigInt(3 * PAGE), size: 2 * PAGE })).toThrow(/slot 0 has 0x0 to 0x4000/);
  expect(() => bind({ guestMemfdOffset: BigInt(SIZE) })).toThrow(RangeError);
  expect(() => bind({ guestMemfdOffset: BigInt(SIZE - PAGE), size: 2 * PAGE })).toThrow(RangeError);
  expect(() => bind({ guestMemfdOffset: 1n })).toThrow(RangeError);
  expect(() => bind({ guestMemfdOffset: PAGE })).toThrow(TypeError);
  expect(() => bind({ guestMemfdOffset: BigInt(8 * PAGE), flags: KVM_MEM_LOG_DIRTY_PAGES })).toThrow(
    KvmUnsupportedError,
  );
  expect(() => bind({ guestMemfdOffset: BigInt(8 * PAGE), flags: KVM_MEM_READONLY })).toThrow(KvmUnsupportedError);
  expect(() => bind({ slot: 0, gpa: 0x20_0000n, guestMemfdOffset: BigInt(8 * PAGE) })).toThrow(STATE);
  expect(() => vm.setUserMemoryRegion({ slot: 0, gpa: 0x20_0000n, size: 4 * PAGE, mapping })).toThrow(STATE);
  expect(() => vm.setUserMemoryRegion({ slot: 1, gpa: 0n, size: PAGE, mapping, guestMemfd: gmem } as never)).toThrow(
    /setUserMemoryRegion2/,
  );
  expect(() => bind({ gpa: 0x10_1000n, guestMemfdOffset: BigInt(8 * PAGE) })).toThrow(
    /slot 0 has 0x100000 to 0x104000/,
  );
  expect(() => bind({ guestMemfd: {} })).toThrow(TypeError);
  expect(() => bind({ guestMemfd: mapping })).toThrow(TypeError);
  const other = make(kvm.createVm(type));
  expect(() => bind({ guestMemfd: other })).toThrow(/belongs to the VM that made it/);
  const closed = make(vm);
  closed.close();
  expect(() => bind({ guestMemfd: closed })).toThrow(CLOSED);
  expect(() => vm.getDirtyLog(0)).toThrow();
  expect(snapshot()).toBe(before);
  bind({ guestMemfdOffset: BigInt(4 * PAGE) });
  expect(gmem.bindings).toEqual([
    { slot: 0, gpa: 0x10_0000n, size: 4 * PAGE, offset: 0n },
    { slot: 1, gpa: 0n, size: PAGE, offset: BigInt(4 * PAGE) },
  ]);
  vm.deleteMemslot(0);
  bind({ slot: 0, gpa: 0x10_0000n, size: 4 * PAGE });
}

describe('binding', () => {
  kvmTest('refuses by name what the kernel has one EINVAL for, on a default VM', NEEDS_MAPPED, () => {
    const { kvm, vm, mapping } = setUp('default');
    bindingRefusals(vm, kvm, mapping, (of) => of.createGuestMemfd(SIZE, { flags: BOTH }), 'default');
  });

  kvmTest('refuses by name what the kernel has one EINVAL for, on a VM with private memory', NEEDS_PRIVATE, () => {
    const { kvm, vm, mapping } = setUp('sw-protected');
    bindingRefusals(vm, kvm, mapping, (of) => of.createGuestMemfd(SIZE), 'sw-protected');
  });
});

describe('private memory', () => {
  kvmTest('is another copy than the shared one, kept across slots, gone with a hole or its file', NEEDS_PRIVATE, () => {
    const { vm, mapping } = setUp('sw-protected');
    const gmem = vm.createGuestMemfd(SIZE);
    const region = { slot: 0, gpa: 0n, size: SIZE, mapping, guestMemfd: gmem };
    vm.setUserMemoryRegion2(region);
    const vcpu = vm.createVcpu(0);
    const set = (attributes: bigint): void => vm.setMemoryAttributes({ address: 0x3000n, size: PAGE, attributes });
    mapping.write(0x3000, Uint8Array.of(0x11));
    expect(run(vcpu, mapping, load(0x3000))).toBe(0x11);
    set(PRIVATE);
    expect(run(vcpu, mapping, load(0x3000))).toBe(0);
    run(vcpu, mapping, store(0x3000, 0x77));
    expect([run(vcpu, mapping, load(0x3000)), mapping.read(0x3000, 1)[0]]).toEqual([0x77, 0x11]);
    set(0n);
    expect(run(vcpu, mapping, load(0x3000))).toBe(0x11);
    set(PRIVATE);
    vm.deleteMemslot(0);
    vm.setUserMemoryRegion2(region);
    expect(run(vcpu, mapping, load(0x3000))).toBe(0x77);
    gmem.punchHole(0x3000n, PAGE);
    expect(run(vcpu, mapping, load(0x3000))).toBe(0);
    gmem.close();
    startAt(vcpu);
    expect(expectExit(vcpu.runSync({ timeoutMs: 10_000 }), 'memory-fault')).toMatchObject({
      gpa: 0x3000n,
      size: 4096n,
      private: true,
      errno: 'EFAULT',
    });
    vm.deleteMemslot(0);
  });

  kvmTest('takes attributes for what slots cover, and for more when asked', NEEDS_PRIVATE, async () => {
    const { vm, mapping } = setUp('sw-protected');
    vm.setUserMemoryRegion2({ slot: 0, gpa: 0n, size: 4 * PAGE, mapping });
    vm.setUserMemoryRegion2({ slot: 1, gpa: 0x4000n, size: 4 * PAGE, mapping, mappingOffset: 4 * PAGE });
    vm.setMemoryAttributes({ address: 0x2000n, size: 4 * PAGE, attributes: PRIVATE });
    await vm.setMemoryAttributesAsync({ address: 0x2000n, size: 4n * 4096n, attributes: 0n });
    expect(() => vm.setMemoryAttributes({ address: 0x6000n, size: 4 * PAGE, attributes: PRIVATE })).toThrow(
      /none at 0x8000.*allowUnbacked/,
    );
    expect(() => vm.setMemoryAttributes({ address: 0n, size: 1n << 52n, attributes: PRIVATE })).toThrow(RangeError);
    await expect(vm.setMemoryAttributesAsync({ address: 0x10_0000n, size: PAGE, attributes: PRIVATE })).rejects.toThrow(
      RangeError,
    );
    vm.setMemoryAttributes({ address: 0x10_0000n, size: PAGE, attributes: PRIVATE, allowUnbacked: true });
    expect(() => vm.setMemoryAttributes({ address: 0n, size: PAGE, attributes: 1n })).toThrow(KvmUnsupportedError);
    expect(() => vm.setMemoryAttributes({ address: 0n, size: PAGE, attributes: 8 as never })).toThrow(TypeError);
    expect(() => vm.setMemoryAttributes({ address: 0 as never, size: PAGE, attributes: 0n })).toThrow(TypeError);
    expect(() => vm.setMemoryAttributes({ address: 1n, size: PAGE, attributes: 0n })).toThrow(RangeError);
    expect(() => vm.setMemoryAttributes({ address: 0n, size: 0, attributes: 0n })).toThrow(RangeError);
  });

  kvmTest('is not to be had on a default VM', () => {
    const { vm, mapping } = setUp('default');
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: SIZE, mapping });
    expect(() => vm.setMemoryAttributes({ address: 0n, size: PAGE, attributes: PRIVATE })).toThrow(
      /type default.*sw-protected/,
    );
  });
});
