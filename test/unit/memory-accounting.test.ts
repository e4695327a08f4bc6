import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../lib/memory/index.ts';
import { PlainVm } from './memory-plain.ts';

const page = 4096;

/** 16 pages with two sides; of the shared one, pages 0 to 7 are resident. Plain buffers. */
function open() {
  const vm = new PlainVm();
  const guest = new GuestMemory(vm, { discard: 'none' });
  const region = guest.add({ gpa: 0x10000n, size: 16 * page, private: true });
  vm.mappings[0]!.residentBytes = (offset, length) => Math.max(0, Math.min(8 * page, offset + length) - offset);
  return { vm, guest, region };
}

describe('the account (with plain buffers for a VM)', () => {
  it('starts with everything shared and nothing private', () => {
    const { guest } = open();
    expect(guest.account()).toEqual({
      private: { bytes: 0, populated: { atLeast: 0, atMost: 0 } },
      shared: { bytes: 16 * page, populated: 8 * page },
      doubled: { atLeast: 0, atMost: 0 },
    });
  });

  it('shows doubled memory, and how sure that is', () => {
    const { guest, region } = open();
    guest.convert({ gpa: 0x14000n, size: 8 * page, to: 'private' });
    expect(guest.account(region)).toEqual({
      private: { bytes: 8 * page, populated: { atLeast: 0, atMost: 8 * page } },
      shared: { bytes: 8 * page, populated: 8 * page },
      doubled: { atLeast: 0, atMost: 4 * page },
    });
    expect(guest.allocate({ gpa: 0x16000n, size: 4 * page })).toBe(4 * page);
    expect(guest.account().private.populated).toEqual({ atLeast: 4 * page, atMost: 8 * page });
    expect(guest.account().doubled).toEqual({ atLeast: 2 * page, atMost: 4 * page });
  });

  it('keeps what may still be held on the side that was left without a discard', () => {
    const { guest } = open();
    guest.convert({ gpa: 0x10000n, size: 4 * page, to: 'private' });
    guest.convert({ gpa: 0x10000n, size: 4 * page, to: 'shared' });
    expect(guest.account().private).toEqual({ bytes: 0, populated: { atLeast: 0, atMost: 4 * page } });
    guest.discard({ gpa: 0x10000n, size: 3 * page, side: 'private' });
    expect(guest.account().private.populated).toEqual({ atLeast: 0, atMost: page });
    guest.convert({ gpa: 0x13000n, size: page, to: 'private' });
    guest.convert({ gpa: 0x13000n, size: page, to: 'shared', discard: 'both' });
    expect(guest.account().private.populated).toEqual({ atLeast: 0, atMost: 0 });
  });

  it('counts what a guest_memfd that is bound again lets the guest reach', () => {
    const { vm, guest } = open();
    const file = vm.createGuestMemfd(32n * 4096n);
    const at = (offset: bigint): Parameters<GuestMemory['add']>[0] => ({
      gpa: 0x80000n,
      size: 4 * page,
      private: { guestMemfd: file, offset },
    });
    // Of these pages it is known that nobody holds them.
    const punched = guest.add(at(0x10000n));
    guest.discard({ gpa: 0x80000n, size: 4 * page, side: 'private' });
    expect(guest.account(punched).private.populated.atMost).toBe(0);
    punched.remove();
    guest.add({ ...at(0n), attributes: 'private' }).remove();
    // The range is still private, and now it is those pages that the guest reaches by it.
    const again = guest.add(at(0x10000n));
    expect(guest.attributes.at(0x80000n)).toBe('private');
    expect(guest.account(again).private.populated.atMost).toBe(4 * page);
  });

  it('counts a hole in private memory as reachable again', () => {
    const { guest } = open();
    guest.convert({ gpa: 0x10000n, size: 4 * page, to: 'private' });
    guest.allocate({ gpa: 0x10000n, size: 4 * page });
    guest.discard({ gpa: 0x10000n, size: 2 * page, side: 'private' });
    expect(guest.account().private.populated).toEqual({ atLeast: 2 * page, atMost: 4 * page });
  });

  it('knows nothing of a guest_memfd that comes from elsewhere', async () => {
    const { vm, guest } = open();
    const guestMemfd = vm.createGuestMemfd(BigInt(8 * page));
    const region = guest.add({ gpa: 0n, size: 4 * page, private: { guestMemfd, offset: BigInt(2 * page) } });
    expect(guest.account(region).private.populated).toEqual({ atLeast: 0, atMost: 4 * page });
    expect(await guest.discardAsync({ gpa: 0n, size: 4 * page, side: 'private' })).toBe(4 * page);
    expect(vm.takeLog().at(-1)).toBe('punch 8192 16384');
    expect(await guest.allocateAsync({ gpa: 0n, size: page })).toBe(page);
    expect(guest.account(region).private.populated).toEqual({ atLeast: page, atMost: page });
  });

  it('outlives the slot, like the content', () => {
    const { guest, region } = open();
    guest.convert({ gpa: 0x10000n, size: 4 * page, to: 'private' });
    guest.allocate({ gpa: 0x10000n, size: 2 * page });
    guest.remove(region, { keepGuestMemfd: true });
    expect(() => guest.account(region)).toThrow('The region was removed');
    const again = guest.add({ gpa: 0x10000n, size: 16 * page, private: { guestMemfd: region.guestMemfd! } });
    expect(guest.account(again).private).toEqual({
      bytes: 4 * page,
      populated: { atLeast: 2 * page, atMost: 4 * page },
    });
  });

  it('draws the map in order, cut by region and state', () => {
    const { guest, region } = open();
    const plain = guest.add({ gpa: 0n, size: 2 * page });
    guest.convert({ gpa: 0x14000n, size: 2 * page, to: 'private' });
    expect(
      guest
        .map()
        .map(({ gpa, size, state, region: { slot }, shared, doubled }) => [
          gpa,
          size / page,
          state,
          slot,
          shared.populated / page,
          doubled.atMost / page,
        ]),
    ).toEqual([
      [0n, 2, 'shared', plain.slot, 0, 0],
      [0x10000n, 4, 'shared', region.slot, 4, 0],
      [0x14000n, 2, 'private', region.slot, 2, 2],
      [0x16000n, 10, 'shared', region.slot, 2, 0],
    ]);
  });

  it('lists attributes by range', () => {
    const { guest } = open();
    guest.convert({ gpa: 0x14000n, size: 2 * page, to: 'private' });
    expect(guest.attributes.ranges(0x13000n, 4 * page)).toEqual([
      { gpa: 0x13000n, size: page, state: 'shared' },
      { gpa: 0x14000n, size: 2 * page, state: 'private' },
      { gpa: 0x16000n, size: page, state: 'shared' },
    ]);
    expect(guest.attributes.ranges()).toHaveLength(3);
    expect(guest.attributes.at(0x15fffn)).toBe('private');
    expect(() => guest.attributes.at(5 as never)).toThrow(TypeError);
  });
});
