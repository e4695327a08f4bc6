import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { HostMapping } from '../../lib/kvm/index.ts';
import type { Backing } from '../../lib/memory/index.ts';
import { load, machine, mappedTest, PAGE, privateTest, SIZE, store } from './memory-guest.ts';

const hugePages = Number(/^HugePages_Free:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
const KINDS: Backing[] = [
  { kind: 'anonymous' },
  { kind: 'anonymous', noreserve: true },
  { kind: 'shared' },
  { kind: 'memfd', name: 'ram' },
];

describe('regions', () => {
  for (const backing of KINDS) {
    it(`of ${JSON.stringify(backing)} are what guest and host both see`, () => {
      const { memory, peek, poke } = machine({ backing });
      memory.writeU8(0x3000n, 0x5a);
      expect(peek(0x3000n)).toBe(0x5a);
      poke(0x3001n, 0x77);
      expect(memory.readU16(0x3000n)).toBe(0x775a);
      const view = memory.view(0x3000n, 2);
      poke(0x3000n, 0x11);
      expect([...view]).toEqual([0x11, 0x77]);
    });
  }

  it.skipIf(hugePages === 0)(
    `of huge pages${hugePages === 0 ? ' [needs a free huge page: vm.nr_hugepages]' : ''}`,
    () => {
      const { memory } = machine({ bare: true });
      memory.add({ gpa: 0n, size: 2 ** 21, backing: { kind: 'hugetlb' } });
      memory.writeU64(8n, 5n);
      expect(memory.readU64(8n)).toBe(5n);
    },
  );

  it('of a file: written to where it is writable, and only there', () => {
    const directory = mkdtempSync(join(tmpdir(), 'node-kvm-memory-'));
    onTestFinished(() => rmSync(directory, { recursive: true }));
    const path = join(directory, 'ram');
    writeFileSync(path, Buffer.alloc(2 * SIZE, 0x21));
    const { memory, peek, poke } = machine({ backing: { kind: 'file', path, offset: SIZE, writable: true } });
    expect(peek(0x3000n)).toBe(0x21);
    poke(0x3000n, 0x99);
    expect(readFileSync(path)[SIZE + 0x3000]).toBe(0x99);
    expect(() => memory.view(0x3000n, 1)).toThrow(expect.objectContaining({ code: 'ERR_KVM_UNSTABLE' }));
    expect(memory.readU32(0x3000n)).toBe(0x21212199);
    const own = machine({ backing: { kind: 'file', path } });
    own.poke(0x3000n, 0x88);
    expect(own.peek(0x3000n)).toBe(0x88);
    expect(own.memory.readU8(0x3000n)).toBe(0x88);
    expect(readFileSync(path)[0x3000]).toBe(0x21);
  });

  it('of a file that becomes shorter give EFAULT, and not a dead process', () => {
    const directory = mkdtempSync(join(tmpdir(), 'node-kvm-memory-'));
    onTestFinished(() => rmSync(directory, { recursive: true }));
    const path = join(directory, 'ram');
    writeFileSync(path, Buffer.alloc(SIZE));
    const { memory } = machine({ backing: { kind: 'file', path, writable: true } });
    writeFileSync(path, Buffer.alloc(PAGE));
    expect(() => memory.read(0x3000n, 16)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(() => memory.write(0x3000n, new Uint8Array(16))).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(memory.readU8(0n)).toBe(0);
  });

  it("of the caller's mapping leave it open", () => {
    const { memory } = machine({ bare: true });
    using mapping = HostMapping.anonymous(SIZE);
    const region = memory.add({ gpa: 0n, size: PAGE, backing: { kind: 'mapping', mapping, offset: PAGE } });
    const own = mapping.view(PAGE, 4);
    const view = memory.view(0n, 4);
    memory.writeU32(0n, 0x04030201);
    expect([...own]).toEqual([1, 2, 3, 4]);
    region.remove();
    expect(view).toHaveLength(0);
    expect([...own]).toEqual([1, 2, 3, 4]);
  });

  it('are gone for the guest, and their views detached, when they are removed', () => {
    const { memory, vm, peek, run } = machine();
    const region = memory.add({ gpa: 0x10_0000n, size: PAGE });
    const low = memory.add({ gpa: 0x1_0000n, size: PAGE });
    expect(vm.memslots.size).toBe(3);
    const view = memory.view(0x10_0000n, 16);
    memory.remove(region);
    low.remove();
    expect([view.length, view.buffer.byteLength]).toEqual([0, 0]);
    expect(vm.memslots.size).toBe(1);
    expect(() => memory.read(0x10_0000n, 1)).toThrow(/nothing is there/);
    memory.writeU8(0x3000n, 3);
    expect(peek(0x3000n)).toBe(3);
    memory.region(0n)!.remove();
    memory.add({ gpa: 0x1000n, size: PAGE });
    // The page that held 3 is no memory any more.
    expect(run(load(0x3000n))).toMatchObject({ reason: 'mmio', direction: 'read', gpa: 0x3000n });
  });

  it('can be read-only for the guest', () => {
    const { memory, peek, run } = machine();
    memory.region(0n)!.remove();
    memory.add({ gpa: 0x1000n, size: PAGE });
    memory.add({ gpa: 0x3000n, size: PAGE, readonly: true });
    memory.writeU8(0x3000n, 0x42);
    expect(peek(0x3000n)).toBe(0x42);
    expect(run(store(0x3000n, 7))).toMatchObject({ reason: 'mmio', direction: 'write', gpa: 0x3000n });
    expect(memory.readU8(0x3000n)).toBe(0x42);
  });

  it('can log which pages are written', () => {
    const { memory, vm, poke } = machine();
    memory.region(0n)!.remove();
    const region = memory.add({ gpa: 0n, size: SIZE, logDirty: true });
    vm.getDirtyLog(region.slot);
    poke(0x3000n, 7);
    expect(vm.getDirtyLog(region.slot)[0]! & 8).toBe(8);
  });

  it('copies 4 MiB across regions', () => {
    const { memory } = machine({ bare: true });
    const size = 2 ** 22;
    memory.add({ gpa: 0n, size });
    memory.add({ gpa: BigInt(size), size, backing: { kind: 'memfd' } });
    const bytes = Uint8Array.from({ length: size }, (_, index) => (index * 2654435761) >>> 24);
    memory.write(BigInt(size / 2), bytes);
    memory.copy(0n, BigInt(size / 2), size);
    expect(Buffer.compare(memory.read(0n, size), bytes)).toBe(0);
  });
});

describe('a mapped guest_memfd', () => {
  mappedTest('is one memory of guest and host', () => {
    const { memory, peek, poke } = machine({ backing: { kind: 'guest-memfd' } });
    memory.writeU8(0x3000n, 0x42);
    expect(peek(0x3000n)).toBe(0x42);
    poke(0x3001n, 0x43);
    expect(memory.readU16(0x3000n)).toBe(0x4342);
    expect(memory.attributesOn).toBe('none');
    expect(() => memory.convert({ gpa: 0x3000n, size: PAGE, to: 'private' })).toThrow(
      expect.objectContaining({ capability: 'KVM_CAP_MEMORY_ATTRIBUTES' }),
    );
    expect(memory.account()).toMatchObject({ private: { bytes: 0 }, shared: { bytes: SIZE, populated: 2 * PAGE } });
  });

  mappedTest('reads as zeros where a hole was punched', () => {
    const { memory, peek, poke } = machine({ backing: { kind: 'guest-memfd' } });
    poke(0x3000n, 0x42);
    poke(0x4000n, 0x43);
    expect(memory.discard({ gpa: 0x3000n, size: PAGE, side: 'private' })).toBe(PAGE);
    expect(memory.readU8(0x3000n)).toBe(0);
    expect(peek(0x3000n)).toBe(0);
    expect(peek(0x4000n)).toBe(0x43);
  });

  mappedTest('keeps its content for the next slot', () => {
    const { memory, vm, peek, poke } = machine({ bare: true });
    const guestMemfd = vm.createGuestMemfd(2 * SIZE, { flags: 3n });
    const backing = { kind: 'guest-memfd', guestMemfd, offset: BigInt(SIZE) } as const;
    const region = memory.add({ gpa: 0n, size: SIZE, backing });
    poke(0x3000n, 0x42);
    region.remove();
    expect(guestMemfd.closed).toBe(false);
    memory.add({ gpa: 0n, size: SIZE, backing });
    expect(peek(0x3000n)).toBe(0x42);
    expect(() => memory.add({ gpa: 0x10_0000n, size: SIZE, backing })).toThrow(/slot 0 has 0x10000-0x20000 of it/);
  });
});

describe('bad input, with the kernel behind it', () => {
  it('leaves no descriptor and no mapping', () => {
    const { memory, vm } = machine();
    const other = machine({ bare: true });
    const foreign = other.vm.createGuestMemfd(SIZE);
    const own = vm.createGuestMemfd(SIZE);
    const closed = vm.createGuestMemfd(SIZE);
    closed.close();
    const at = { gpa: 0x10_0000n, size: PAGE };
    expect(() => memory.add({ ...at, gpa: 0x3000n })).toThrow(/slot 0 is at 0x0-0x10000/);
    expect(() => memory.add({ ...at, gpa: 1n })).toThrow(RangeError);
    expect(() => memory.add({ ...at, gpa: 1n << 52n })).toThrow(RangeError);
    expect(() => memory.add({ ...at, gpa: 4096 as never })).toThrow(TypeError);
    expect(() => memory.add({ ...at, size: 0 })).toThrow(RangeError);
    expect(() => memory.add({ ...at, size: 4097 })).toThrow(RangeError);
    expect(() => memory.add({ ...at, slot: 0 })).toThrow(RangeError);
    expect(() => memory.add({ ...at, private: { guestMemfd: foreign } })).toThrow(
      expect.objectContaining({ code: 'ERR_KVM_FOREIGN' }),
    );
    expect(() => memory.add({ ...at, private: { guestMemfd: closed } })).toThrow(
      expect.objectContaining({ code: 'ERR_KVM_CLOSED' }),
    );
    expect(() => memory.add({ ...at, private: { guestMemfd: own, offset: BigInt(SIZE) } })).toThrow(RangeError);
    expect(() => memory.add({ ...at, backing: { kind: 'file', path: '/nonexistent/ram' } })).toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
    expect(memory.regions).toHaveLength(1);
    expect(vm.memslots.size).toBe(1);
    own.close();
    foreign.close();
  });

  it('says that private memory is not to be had in a VM of type default without it (needs a default VM without KVM_CAP_GUEST_MEMFD)', ({
    skip,
  }) => {
    const { memory, vm } = machine();
    if (vm.checkExtension('KVM_CAP_GUEST_MEMFD') > 0) skip('a VM of type default has guest_memfd here');
    expect(() => memory.add({ gpa: 0x10_0000n, size: PAGE, private: true })).toThrow(
      expect.objectContaining({ capability: 'KVM_CAP_GUEST_MEMFD' }),
    );
  });

  it('is refused after close', () => {
    const { memory, vm } = machine();
    const region = memory.region(0n)!;
    memory.close();
    expect(region.removed).toBe(true);
    expect(vm.memslots.size).toBe(0);
    expect(() => memory.add({ gpa: 0n, size: PAGE })).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
    expect(() => memory.read(0n, 1)).toThrow(/guest memory is closed/);
    expect(() => region.mapping!.view(0, 1)).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  });

  it('is refused for regions of another address space', () => {
    const one = machine();
    const two = machine();
    expect(() => one.memory.remove(two.memory.regions[0]!)).toThrow(/another GuestMemory/);
  });
});

describe('the VM first, the memory later', () => {
  it('lets the views live until the memory closes', () => {
    const { kvm, memory } = machine();
    memory.writeU8(0n, 9);
    const view = memory.view(0n, 1);
    kvm.close();
    expect(memory.readU8(0n)).toBe(9);
    memory.close();
    expect(view).toHaveLength(0);
  });

  privateTest('also with private memory', () => {
    const { kvm, memory } = machine({ type: 'sw-protected', private: true });
    memory.convert({ gpa: 0x3000n, size: PAGE, to: 'private' });
    kvm.close();
    memory.close();
  });
});
