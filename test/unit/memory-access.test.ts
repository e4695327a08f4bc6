import { describe, expect, it } from 'vitest';
import { HostSide } from '../../lib/memory/host-side.ts';
import { GuestMemory } from '../../lib/memory/index.ts';
import { Layout } from '../../lib/memory/layout.ts';
import { PlainMapping, PlainVm } from './memory-plain.ts';

const KiB = 1024;

/** Two regions that touch, at 64 KiB and 80 KiB, and one apart. Plain buffers; no kernel. */
function memory() {
  const vm = new PlainVm();
  const guest = new GuestMemory(vm);
  guest.add({ gpa: 0x10000n, size: 16 * KiB });
  guest.add({ gpa: 0x14000n, size: 16 * KiB, private: true });
  guest.add({ gpa: 0x100000n, size: 4 * KiB });
  return { vm, guest };
}

describe('the layout', () => {
  it('finds regions, overlaps, gaps and segments', () => {
    const layout = new Layout<{ start: number; end: number; slot: number }>();
    const regions = [
      [0x3000, 0x4000],
      [0x1000, 0x2000],
      [0x2000, 0x3000],
      [0x8000, 0x9000],
    ].map(([start, end], slot) => ({ start: start!, end: end!, slot }));
    regions.forEach((region) => layout.add(region));
    expect(layout.regions.map(({ start }) => start)).toEqual([0x1000, 0x2000, 0x3000, 0x8000]);
    expect(layout.find(0x2fff)).toBe(regions[2]);
    expect(layout.find(0x3000)).toBe(regions[0]);
    expect(layout.find(0x4000)).toBeUndefined();
    expect(layout.find(0)).toBeUndefined();
    expect(layout.gap(0x1000, 0x4000)).toBeUndefined();
    expect(layout.gap(0x1000, 0x9000)).toBe(0x4000);
    expect(layout.gap(0, 0x1000)).toBe(0);
    expect(layout.overlapping(0x3fff, 0x8001)).toBe(regions[0]);
    expect(layout.overlapping(0x4000, 0x8000)).toBeUndefined();
    expect(layout.segments(0x1800, 0x8800).map(({ start, end }) => [start, end])).toEqual([
      [0x1800, 0x2000],
      [0x2000, 0x3000],
      [0x3000, 0x4000],
      [0x8000, 0x8800],
    ]);
    layout.remove(regions[2]!);
    expect(layout.find(0x2fff)).toBeUndefined();
  });
});

describe('access to guest memory', () => {
  it('reads back what was written, across regions', () => {
    const { guest } = memory();
    const bytes = Uint8Array.from({ length: 0x1000 }, (_, index) => index * 7);
    guest.write(0x13800n, bytes);
    expect(guest.read(0x13800n, 0x1000)).toEqual(bytes);
    const into = new Uint8Array(0x1000);
    guest.readInto(0x13800n, into);
    expect(into).toEqual(bytes);
    expect(guest.read(0x14000n, 4)).toEqual(bytes.slice(0x800, 0x804));
  });

  it('goes to the memory that is there now, not to where the last access went', () => {
    const { guest } = memory();
    const bytes = new Uint8Array(64).fill(7);
    const into = new Uint8Array(64);
    for (let time = 0; time < 2; time++) {
      guest.write(0x10000n, bytes);
      guest.readInto(0x10000n, into);
      expect(into).toEqual(bytes);
      guest.remove(guest.region(0x10000n)!);
      expect(() => guest.write(0x10000n, bytes)).toThrow(RangeError);
      expect(() => guest.readInto(0x10000n, into)).toThrow(RangeError);
      expect(() => guest.read(0x10000n, 64)).toThrow(RangeError);
      guest.add({ gpa: 0x10000n, size: 16 * KiB });
      expect(guest.read(0x10000n, 64)).toEqual(new Uint8Array(64));
    }
    // Up to the last byte of a region, and not one further.
    guest.write(0x100fc0n, bytes);
    expect(guest.read(0x100fc0n, 64)).toEqual(bytes);
    guest.readInto(0x100fc0n, into);
    expect(() => guest.write(0x100fc1n, bytes)).toThrow(RangeError);
    expect(() => guest.readInto(0x100fc1n, into)).toThrow(RangeError);
    expect(() => guest.read(0x101000n, 0)).toThrow(RangeError);
    expect(() => guest.write(-0x1000n, bytes)).toThrow(RangeError);
  });

  it('refuses what has become private since the last access there', () => {
    const { guest } = memory();
    const into = new Uint8Array(64);
    guest.readInto(0x14000n, into);
    guest.convert({ gpa: 0x14000n, size: 4 * KiB, to: 'private' });
    const refused = expect.objectContaining({ code: 'ERR_KVM_PRIVATE' });
    expect(() => guest.readInto(0x14000n, into)).toThrow(refused);
    expect(() => guest.write(0x14000n, into)).toThrow(refused);
    expect(() => guest.read(0x14000n, 64)).toThrow(refused);
    guest.readInto(0x15000n, into);
    guest.readInto(0x14000n, into, { side: 'shared' });
    expect(() => guest.readInto(0x14000n, into)).toThrow(refused);
    guest.convert({ gpa: 0x14000n, size: 4 * KiB, to: 'shared' });
    guest.readInto(0x14000n, into);
  });

  it('gives a copy, not a view', () => {
    const { guest } = memory();
    const copy = guest.read(0x10000n, 4);
    guest.fill(0x10000n, 4, 9);
    expect([...copy]).toEqual([0, 0, 0, 0]);
    expect([...guest.read(0x10000n, 4)]).toEqual([9, 9, 9, 9]);
  });

  it('reads and writes little-endian numbers, also across a border', () => {
    const { guest } = memory();
    for (const gpa of [0x10000n, 0x13ffdn, 0x13fffn]) {
      guest.writeU64(gpa, 0x8877665544332211n);
      expect(guest.readU64(gpa)).toBe(0x8877665544332211n);
      expect(guest.readU32(gpa)).toBe(0x44332211);
      expect(guest.readU16(gpa)).toBe(0x2211);
      expect(guest.readU8(gpa)).toBe(0x11);
      guest.writeU32(gpa, 0xdeadbeef);
      guest.writeU16(gpa, 0xcafe);
      guest.writeU8(gpa, 0x42);
      expect(guest.readU32(gpa)).toBe(0xdeadca42);
    }
    expect(() => guest.writeU8(0x10000n, 256)).toThrow(RangeError);
    expect(() => guest.writeU64(0x10000n, 1 as never)).toThrow(
      'Expected a bigint for value but received 1 (type number)',
    );
  });

  it('copies like memmove', () => {
    for (const [target, source, length] of [
      [0x10100n, 0x10000n, 0x1000],
      [0x10000n, 0x10100n, 0x1000],
      [0x13f00n, 0x13000n, 0x2000],
      [0x13000n, 0x13f00n, 0x2000],
      [0x10000n, 0x10000n, 0x8000],
    ] as const) {
      const { guest } = memory();
      const all = Uint8Array.from({ length: 0x8000 }, (_, index) => (index * 31) >> 3);
      guest.write(0x10000n, all);
      guest.copy(target, source, length);
      all.copyWithin(Number(target) - 0x10000, Number(source) - 0x10000, Number(source) - 0x10000 + length);
      expect(guest.read(0x10000n, 0x8000)).toEqual(all);
    }
  });

  it('copies large ranges across regions piece by piece, in the right direction', () => {
    const guest = new GuestMemory(new PlainVm());
    guest.add({ gpa: 0n, size: 1 << 20 });
    guest.add({ gpa: 1n << 20n, size: 1 << 20 });
    const all = Uint8Array.from({ length: 2 << 20 }, (_, index) => index ^ (index >> 8));
    for (const [target, source] of [
      [0x1000, 0x9000],
      [0x9000, 0x1000],
    ] as const) {
      guest.write(0n, all);
      guest.copy(BigInt(target), BigInt(source), 0x1f0000);
      const expected = all.slice().copyWithin(target, source, source + 0x1f0000);
      expect(Buffer.compare(guest.read(0n, 2 << 20), expected)).toBe(0);
    }
  });

  it('reads a C string up to its NUL', () => {
    const { guest } = memory();
    guest.write(0x13ffcn, Buffer.from('grüße\0rest'));
    expect(guest.readCString(0x13ffcn)).toBe('grüße');
    guest.fill(0x100000n, 4096, 0x41);
    expect(() => guest.readCString(0x100000n, { maxLength: 100 })).toThrow('Expected a NUL within 100 bytes');
    expect(() => guest.readCString(0x100000n, { maxLength: 5000 })).toThrow(/inside guest memory/);
  });

  it('gives zero-copy views inside one region', () => {
    const { guest } = memory();
    const view = guest.view(0x10010n, 16);
    view[0] = 0x77;
    expect(guest.readU8(0x10010n)).toBe(0x77);
    guest.writeU8(0x1001fn, 0x78);
    expect(view[15]).toBe(0x78);
    expect(() => guest.view(0x13ff0n, 32)).toThrow(/a range inside one region/);
  });

  it('explains why memory that may raise SIGBUS has no view, and reads it all the same', () => {
    const { vm, guest } = memory();
    const mapping = new PlainMapping(8192, vm.mappings);
    mapping.stable = false;
    const host = new HostSide(mapping, 4096, 4096);
    host.write(5, Uint8Array.of(1, 2, 3));
    expect([...host.copyOut(4, 5)]).toEqual([0, 1, 2, 3, 0]);
    expect([...mapping.bytes.subarray(4096 + 5, 4096 + 8)]).toEqual([1, 2, 3]);
    expect(() => host.view(0, 10)).toThrow(expect.objectContaining({ code: 'ERR_KVM_UNSTABLE' }));
    expect(guest.region(0x10000n)?.slot).toBe(0);
  });

  it('works over several windows', () => {
    const mapping = new PlainMapping(64 * KiB, []);
    const host = new HostSide(mapping, 0, 64 * KiB, { windowSize: 4096 });
    const bytes = Uint8Array.from({ length: 20000 }, (_, index) => index % 251);
    host.write(3000, bytes);
    expect(host.copyOut(3000, 20000)).toEqual(bytes);
    expect(host.view(3000, 20000)).toEqual(bytes);
    expect(host.within(4090, 10)).toBeUndefined();
  });

  it('refuses ranges that leave guest memory, and says where', () => {
    const { guest } = memory();
    const text = 'guest memory is 0x10000-0x14000 (slot 0), 0x14000-0x18000 (slot 1), 0x100000-0x101000 (slot 2)';
    expect(() => guest.read(0x5000n, 8)).toThrow(
      `Expected a range of 8 bytes inside guest memory for gpa but received 20480n (type bigint): nothing is there; ${text}`,
    );
    expect(() => guest.read(0x17ffcn, 8)).toThrow('it ends at 0x18000');
    expect(() => guest.write(0x100ffcn, new Uint8Array(8))).toThrow(RangeError);
    expect(() => guest.readU64((1n << 52n) - 4n)).toThrow(RangeError);
    expect(() => guest.copy(0x10000n, 0x17ff0n, 0x20)).toThrow(/for source/);
    expect(() => guest.copy(0x17ff0n, 0x10000n, 0x20)).toThrow(/for target/);
  });

  it('refuses wrong types and values in one sentence', () => {
    const { guest } = memory();
    expect(() => guest.read(0x10000 as never, 8)).toThrow(
      'Expected a bigint for gpa but received 65536 (type number); write 65536n',
    );
    expect(() => guest.read(1n << 52n, 8)).toThrow(RangeError);
    expect(() => guest.read(-1n, 8)).toThrow(RangeError);
    expect(() => guest.read(0x10000n, -1)).toThrow(RangeError);
    expect(() => guest.read(0x10000n, 1.5)).toThrow(RangeError);
    expect(() => guest.read(0x10000n, 8n as never)).toThrow(TypeError);
    // Also where the last copy went, which has a quick check of its own.
    guest.read(0x10000n, 8);
    expect(() => guest.read(0x10000n, 8n as never)).toThrow(/for length but received 8n/);
    expect(() => guest.write(0x10000n, 'text' as never)).toThrow(TypeError);
    expect(() => guest.fill(0x10000n, 1, 256)).toThrow(RangeError);
    expect(() => guest.read(0x10000n, 8, { sides: 'shared' } as never)).toThrow(/did you mean/);
    expect(() => guest.read(0x10000n, 8, { side: 'private' } as never)).toThrow(RangeError);
  });

  it('refuses private ranges unless the shared side is asked for', () => {
    const { guest } = memory();
    guest.fill(0x14000n, 16 * KiB, 5);
    guest.convert({ gpa: 0x15000n, size: 4096, to: 'private', discard: 'none' });
    const refused = expect.objectContaining({ code: 'ERR_KVM_PRIVATE' });
    expect(() => guest.read(0x15000n, 1)).toThrow(refused);
    expect(() => guest.read(0x14ffcn, 8)).toThrow(refused);
    expect(() => guest.writeU8(0x15fffn, 1)).toThrow(refused);
    expect(() => guest.view(0x15000n, 1)).toThrow('Guest memory at 0x15000-0x16000 is private');
    expect(() => guest.copy(0x10000n, 0x15000n, 1)).toThrow(refused);
    expect(guest.read(0x14ffcn, 4)).toHaveLength(4);
    expect(guest.readU8(0x15000n, { side: 'shared' })).toBe(5);
    guest.convert({ gpa: 0x15000n, size: 4096, to: 'shared', discard: 'none' });
    expect(guest.readU8(0x15000n)).toBe(5);
  });
});
