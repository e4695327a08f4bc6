import { describe, expect } from 'vitest';
import { machine, mappedTest, PAGE, SIZE } from './memory-guest.ts';

describe('memory that two VMs share', () => {
  mappedTest('is a mapped guest_memfd of one as shared memory of the other', () => {
    const one = machine({ backing: { kind: 'guest-memfd' } });
    const { guestMemfd } = one.memory.regions[0]!;
    const two = machine();
    const region = two.memory.add({
      gpa: 0x2_0000n,
      size: 4 * PAGE,
      backing: { kind: 'guest-memfd', guestMemfd: guestMemfd!, offset: 0x3000n },
    });
    expect(region.guestMemfd).toBeUndefined();
    one.poke(0x3000n, 0x77);
    expect(two.memory.readU8(0x2_0000n)).toBe(0x77);
    two.memory.writeU8(0x2_1000n, 0x66);
    expect(one.peek(0x4000n)).toBe(0x66);
  });

  mappedTest('is seen by both guests', () => {
    const one = machine({ backing: { kind: 'guest-memfd' } });
    const { guestMemfd } = one.memory.regions[0]!;
    // Code at 0x1000 stays the second VM's own; 0x8000 to 0xffff is the first one's.
    const two = machine({ bare: true });
    two.memory.add({ gpa: 0n, size: 8 * PAGE });
    two.memory.add({
      gpa: 0x8000n,
      size: 8 * PAGE,
      backing: { kind: 'guest-memfd', guestMemfd: guestMemfd!, offset: 0x8000n },
    });
    one.poke(0x9000n, 0x31);
    expect(two.peek(0x9000n)).toBe(0x31);
    two.poke(0x9001n, 0x32);
    expect(one.peek(0x9001n)).toBe(0x32);
    // A hole punched by its owner is a hole for both.
    one.memory.discard({ gpa: 0x9000n, size: PAGE, side: 'private' });
    expect([one.peek(0x9000n), two.peek(0x9000n), two.memory.readU8(0x9001n)]).toEqual([0, 0, 0]);
  });

  mappedTest('lives on when the VM that made it is closed', () => {
    const one = machine({ bare: true });
    const guestMemfd = one.vm.createGuestMemfd(SIZE, { flags: 3n });
    const two = machine({ backing: { kind: 'guest-memfd', guestMemfd } });
    two.poke(0x3000n, 0x44);
    one.kvm.close();
    expect(two.peek(0x3000n)).toBe(0x44);
    expect(two.memory.readU8(0x3000n)).toBe(0x44);
  });

  mappedTest('is never private memory of the other', () => {
    const one = machine({ backing: { kind: 'guest-memfd' } });
    const two = machine();
    const { guestMemfd } = one.memory.regions[0]!;
    expect(() => two.memory.add({ gpa: 0x10_0000n, size: SIZE, private: { guestMemfd: guestMemfd! } })).toThrow(
      expect.objectContaining({ code: 'ERR_KVM_FOREIGN', message: expect.stringContaining('what two VMs can share') }),
    );
    expect(two.memory.regions).toHaveLength(1);
  });
});
