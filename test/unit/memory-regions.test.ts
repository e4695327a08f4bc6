import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../lib/memory/index.ts';
import type { AddOptions } from '../../lib/memory/index.ts';
import { PlainMapping, PlainVm, systemError } from './memory-plain.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

function open() {
  const vm = new PlainVm();
  return { vm, guest: new GuestMemory(vm) };
}

describe('regions (with plain buffers for a VM)', () => {
  it('takes the lowest free slot, or the one that is asked for', () => {
    const { vm, guest } = open();
    guest.add({ gpa: 0n, size: 4096, slot: 1 });
    expect(guest.add({ gpa: 0x1000n, size: 4096 }).slot).toBe(0);
    expect(guest.add({ gpa: 0x2000n, size: 4096 }).slot).toBe(2);
    expect(() => guest.add({ gpa: 0x3000n, size: 4096, slot: 2 })).toThrow(
      'Expected a slot that is free for slot but received 2',
    );
    expect(vm.memslots.size).toBe(3);
  });

  it('sets flags for read-only, dirty-logged and guest_memfd slots', () => {
    const { vm, guest } = open();
    guest.add({ gpa: 0n, size: 4096, readonly: true });
    guest.add({ gpa: 0x1000n, size: 4096, logDirty: true });
    guest.add({ gpa: 0x2000n, size: 4096, private: true });
    expect([...vm.memslots.values()].map(({ flags }) => flags)).toEqual([2, 1, 4]);
  });

  it('uses the old ioctl where the new one is not offered', () => {
    const { vm, guest } = open();
    vm.capabilities.delete(231);
    guest.add({ gpa: 0n, size: 4096 });
    expect(vm.takeLog()).toEqual(['slot v1 0']);
  });

  it('removes in order: the slot, the mapping, and what it owned', () => {
    const { vm, guest } = open();
    const region = guest.add({ gpa: 0n, size: 64 * KiB, private: true, attributes: 'private' });
    vm.takeLog();
    region.remove();
    region.remove();
    expect(vm.takeLog()).toEqual(['delete 0, mapping open', 'attributes 0x0 65536 shared']);
    expect(region.removed).toBe(true);
    expect(vm.mappings.every(({ closed }) => closed)).toBe(true);
    expect(vm.memfds.every(({ closed }) => closed)).toBe(true);
    expect(guest.attributes.at(0n)).toBe('shared');
    expect(guest.regions).toEqual([]);
    expect(() => guest.read(0n, 1)).toThrow('guest memory is empty');
  });

  it('leaves a kept guest_memfd, and its attributes, for the next slot', () => {
    const { vm, guest } = open();
    const region = guest.add({ gpa: 0n, size: 64 * KiB, private: true, attributes: 'private' });
    guest.remove(region, { keepGuestMemfd: true });
    const guestMemfd = region.guestMemfd!;
    expect(guestMemfd.closed).toBe(false);
    expect(guest.attributes.at(0n)).toBe('private');
    vm.takeLog();
    const again = guest.add({ gpa: 0n, size: 64 * KiB, private: { guestMemfd } });
    expect(vm.takeLog()).toEqual(['slot 0 0x0 65536 flags 4']);
    expect(guest.account().private.bytes).toBe(64 * KiB);
    again.remove();
    expect(guestMemfd.closed).toBe(false);
    // A slot without a private side cannot be private, so the attribute is taken back.
    vm.takeLog();
    guest.add({ gpa: 0n, size: 4096 });
    expect(vm.takeLog()).toEqual(['slot 0 0x0 4096 flags 0', 'attributes 0x0 4096 shared']);
  });

  it('gives everything back when a step fails', () => {
    const { vm, guest } = open();
    vm.failures.set('slot', systemError('EINVAL', -22, 'KVM_SET_USER_MEMORY_REGION2'));
    expect(() => guest.add({ gpa: 0n, size: 4096, private: true })).toThrow('EINVAL');
    vm.failures.set('attributes', systemError('ENOMEM', -12, 'KVM_SET_MEMORY_ATTRIBUTES'));
    expect(() => guest.add({ gpa: 0n, size: 4096, private: true, attributes: 'private' })).toThrow('ENOMEM');
    expect(vm.mappings.every(({ closed }) => closed)).toBe(true);
    expect(vm.memfds.every(({ closed }) => closed)).toBe(true);
    expect(guest.regions).toEqual([]);
    expect(vm.memslots.size).toBe(0);
  });

  it('closes all regions, also those of a VM that is closed already', () => {
    const { vm, guest } = open();
    guest.add({ gpa: 0n, size: 4096, private: true });
    guest.add({ gpa: 0x1000n, size: 4096 });
    vm.closed = true;
    vm.takeLog();
    guest.close();
    guest[Symbol.dispose]();
    expect(vm.takeLog()).toEqual([]);
    expect(vm.mappings.every(({ closed }) => closed)).toBe(true);
    expect(() => guest.add({ gpa: 0n, size: 4096 })).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  });

  it('takes a handle of its own to a mapping of the caller', () => {
    const { vm, guest } = open();
    const mapping = new PlainMapping(64 * KiB, vm.mappings);
    const region = guest.add({ gpa: 0n, size: 8 * KiB, backing: { kind: 'mapping', mapping, offset: 4096 } });
    guest.writeU8(0n, 7);
    expect(mapping.bytes[4096]).toBe(7);
    region.remove();
    expect(mapping.closed).toBe(false);
    expect(region.mapping?.closed).toBe(true);
    expect(() => guest.add({ gpa: 0n, size: 64 * KiB, backing: { kind: 'mapping', mapping, offset: 4096 } })).toThrow(
      'Expected at most 61440 bytes (what the mapping holds from offset 4096) for size',
    );
    mapping.close();
    expect(() => guest.add({ gpa: 0n, size: 4096, backing: { kind: 'mapping', mapping } })).toThrow(/closed/);
  });
});

describe('a mapped guest_memfd as backing (with plain buffers for VMs)', () => {
  function mappable() {
    const one = open();
    one.vm.capabilities.set(244, 3).set(233, 0);
    return one;
  }

  it('is bound and mapped at the same offset', () => {
    const { vm, guest } = mappable();
    const guestMemfd = vm.createGuestMemfd(64n * 1024n, { flags: 3n });
    const region = guest.add({ gpa: 0n, size: 8 * KiB, backing: { kind: 'guest-memfd', guestMemfd, offset: 4096n } });
    expect(vm.takeLog()).toEqual(['map 4096 8192', 'slot 0 0x0 8192 flags 4']);
    expect(vm.memslots.get(0)).toMatchObject({ guestMemfd, guestMemfdOffset: 4096n, mappingOffset: 0 });
    expect(region.oneMemory).toBe(true);
    expect(region.convertible).toBe(false);
  });

  it('has nothing to convert, and says so', () => {
    const { guest } = mappable();
    guest.add({ gpa: 0n, size: 8 * KiB, backing: { kind: 'guest-memfd' } });
    for (const to of ['private', 'shared'] as const) {
      expect(() => guest.convert({ gpa: 0n, size: 4096, to })).toThrow(
        expect.objectContaining({ name: 'KvmUnsupportedError', capability: 'KVM_CAP_MEMORY_ATTRIBUTES' }),
      );
    }
    expect(() => guest.convert({ gpa: 0n, size: 4096, to: 'private' })).toThrow(
      /one memory that guest and host both see/,
    );
    expect(guest.attributesOn).toBe('none');
    expect(guest.handleHypercall({ nr: 12, args: [0n, 1n, 16n], ret: new BigInt64Array(1) })?.ret).toBe(-95n);
  });

  it('of another VM is ordinary shared memory, and never private memory', () => {
    const one = mappable();
    const two = mappable();
    const guestMemfd = one.vm.createGuestMemfd(8n * 1024n, { flags: 3n });
    const region = two.guest.add({ gpa: 0n, size: 8 * KiB, backing: { kind: 'guest-memfd', guestMemfd } });
    expect(two.vm.memslots.get(0)!.flags).toBe(0);
    expect(two.vm.memslots.get(0)!.guestMemfd).toBeUndefined();
    expect(region.oneMemory).toBe(false);
    expect(() => two.guest.add({ gpa: 0x10000n, size: 8 * KiB, private: { guestMemfd } })).toThrow(
      expect.objectContaining({ code: 'ERR_KVM_FOREIGN', message: expect.stringContaining('belongs to another VM') }),
    );
  });

  it('needs the flags', () => {
    const { guest } = open();
    expect(() => guest.add({ gpa: 0n, size: 4096, backing: { kind: 'guest-memfd' } })).toThrow(
      expect.objectContaining({ capability: 'KVM_CAP_GUEST_MEMFD_FLAGS' }),
    );
    const { vm, guest: other } = mappable();
    const plain = vm.createGuestMemfd(4096n);
    expect(() => other.add({ gpa: 0n, size: 4096, backing: { kind: 'guest-memfd', guestMemfd: plain } })).toThrow(
      /cannot be mapped/,
    );
  });
});

describe('bad input to add', () => {
  const { vm, guest } = open();
  const big = vm.createGuestMemfd(BigInt(MiB));
  const closed = vm.createGuestMemfd(BigInt(MiB));
  closed.close();
  guest.add({ gpa: 0x100000n, size: 64 * KiB, private: { guestMemfd: big, offset: 64n * 1024n } });
  const cases: [string, unknown, ErrorConstructor | undefined, RegExp][] = [
    [
      'an unaligned gpa',
      { gpa: 0x10n, size: 4096 },
      RangeError,
      /Expected a multiple of 4096 for gpa but received 16n/,
    ],
    [
      'a number for a gpa',
      { gpa: 0, size: 4096 },
      TypeError,
      /Expected a bigint for gpa but received 0 \(type number\); write 0n/,
    ],
    ['a gpa over 2^52', { gpa: 1n << 52n, size: 4096 }, RangeError, /gpa/],
    ['a range over 2^52', { gpa: (1n << 52n) - 4096n, size: 8192 }, RangeError, /end of the 52-bit/],
    ['size zero', { gpa: 0n, size: 0 }, RangeError, /Expected a size above 0 for size but received 0/],
    ['an unaligned size', { gpa: 0n, size: 100 }, RangeError, /Expected a multiple of 4096 for size but received 100/],
    ['a bigint for a size', { gpa: 0n, size: 4096n }, TypeError, /write 4096 without the n/],
    ['a size over a slot', { gpa: 0n, size: 2 ** 43 }, RangeError, /2\^31 - 1 pages/],
    ['no options', undefined, TypeError, /gpa/],
    ['a misspelt key', { gpa: 0n, size: 4096, privat: true }, TypeError, /did you mean private/],
    ['an overlap', { gpa: 0x10f000n, size: 4096 }, RangeError, /slot 0 is at 0x100000-0x110000/],
    ['a slot beyond the last', { gpa: 0n, size: 4096, slot: 32764 }, RangeError, /slot/],
    [
      'a backing that is not known',
      { gpa: 0n, size: 4096, backing: { kind: 'memdf' } },
      RangeError,
      /did you mean 'memfd'/,
    ],
    ['a key of another backing', { gpa: 0n, size: 4096, backing: { kind: 'shared', path: '/' } }, TypeError, /path/],
    [
      'a huge page size that there is not',
      { gpa: 0n, size: MiB, backing: { kind: 'hugetlb', pageSize: 4096 } },
      RangeError,
      /pageSize/,
    ],
    [
      'a size that is no huge pages',
      { gpa: 0n, size: MiB, backing: { kind: 'hugetlb' } },
      RangeError,
      /huge page size 2097152/,
    ],
    [
      'read-only with private',
      { gpa: 0n, size: 4096, private: true, readonly: true },
      TypeError,
      /neither readonly nor logDirty/,
    ],
    [
      'dirty log with private',
      { gpa: 0n, size: 4096, private: true, logDirty: true },
      TypeError,
      /but received logDirty/,
    ],
    [
      'private at first without a private side',
      { gpa: 0n, size: 4096, attributes: 'private' },
      TypeError,
      /private: true/,
    ],
    ['nothing on either side', { gpa: 0n, size: 4096, backing: { kind: 'none' } }, TypeError, /private side/],
    [
      'an offset past the end',
      { gpa: 0n, size: 4096, private: { guestMemfd: big, offset: BigInt(MiB) } },
      RangeError,
      /at most 0 bytes/,
    ],
    [
      'a range past the end',
      { gpa: 0n, size: 8192, private: { guestMemfd: big, offset: BigInt(MiB) - 4096n } },
      RangeError,
      /at most 4096 bytes/,
    ],
    [
      'an unaligned offset',
      { gpa: 0n, size: 4096, private: { guestMemfd: big, offset: 5n } },
      RangeError,
      /private.offset/,
    ],
    ['a number for an offset', { gpa: 0n, size: 4096, private: { guestMemfd: big, offset: 0 } }, TypeError, /a bigint/],
    [
      'a second bind of a range',
      { gpa: 0n, size: 8192, private: { guestMemfd: big, offset: 120n * 1024n } },
      RangeError,
      /slot 0 has 0x10000-0x20000/,
    ],
    ['a closed guest_memfd', { gpa: 0n, size: 4096, private: { guestMemfd: closed } }, undefined, /closed/],
    [
      'something else for a guest_memfd',
      { gpa: 0n, size: 4096, private: { guestMemfd: 5 } },
      TypeError,
      /a GuestMemfd/,
    ],
  ];
  for (const [name, options, type, text] of cases) {
    it(`refuses ${name} and leaves nothing`, () => {
      const before = guest.regions.length;
      let error: unknown;
      try {
        guest.add(options as AddOptions);
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toBeInstanceOf(type ?? Error);
      expect((error as Error).message).toMatch(text);
      expect(guest.regions).toHaveLength(before);
      expect(vm.mappings.filter((mapping) => !mapping.closed)).toHaveLength(1);
    });
  }
});
