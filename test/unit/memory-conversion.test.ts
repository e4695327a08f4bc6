import { describe, expect, it } from 'vitest';
import type { Conversion } from '../../lib/memory/index.ts';
import { GuestMemory } from '../../lib/memory/index.ts';
import type { GuestMemoryOptions } from '../../lib/memory/index.ts';
import { PlainVm, systemError } from './memory-plain.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const page = 4096;

/** Slot 0 at 0 and slot 1 at 64 KiB, both with two sides; slot 2 at 1 MiB without a private one. Plain buffers. */
function open(options: GuestMemoryOptions = {}) {
  const vm = new PlainVm();
  const guest = new GuestMemory(vm, options);
  guest.add({ gpa: 0n, size: 64 * KiB, private: true });
  guest.add({ gpa: 0x10000n, size: 64 * KiB, private: true, backing: { kind: 'memfd' } });
  guest.add({ gpa: 0x100000n, size: 64 * KiB });
  vm.takeLog();
  const events: Conversion[] = [];
  guest.on('conversion', (conversion) => events.push(conversion));
  return { vm, guest, events };
}

const states = (guest: GuestMemory) =>
  guest.attributes.ranges(0n, 2 * MiB).map(({ gpa, size, state }) => `${Number(gpa) / page}+${size / page} ${state}`);

describe('conversions (with plain buffers for a VM)', () => {
  it('set the attribute, then discard the side left behind', () => {
    const { vm, guest, events } = open();
    expect(guest.convert({ gpa: 0x2000n, size: 2 * page, to: 'private' })).toMatchObject({
      gpa: 0x2000n,
      size: 8192,
      to: 'private',
      source: 'explicit',
      changed: 8192,
      discarded: 8192,
    });
    expect(vm.takeLog()).toEqual(['attributes 0x2000 8192 private', 'madvise 4 8192 8192']);
    guest.convert({ gpa: 0x2000n, size: page, to: 'shared' });
    expect(vm.takeLog()).toEqual(['attributes 0x2000 4096 shared', 'punch 8192 4096']);
    expect(states(guest)).toEqual(['0+3 shared', '3+1 private', '4+508 shared']);
    expect(events.map(({ to }) => to)).toEqual(['private', 'shared']);
  });

  it('go over slots in one call of the kernel, and discard slot by slot as each backing wants it', () => {
    const { vm, guest } = open();
    guest.convert({ gpa: 0xe000n, size: 4 * page, to: 'private' });
    expect(vm.takeLog()).toEqual(['attributes 0xe000 16384 private', 'madvise 4 57344 8192', 'madvise 9 0 8192']);
    guest.convert({ gpa: 0xe000n, size: 4 * page, to: 'shared' });
    expect(vm.takeLog()).toEqual(['attributes 0xe000 16384 shared', 'punch 57344 8192', 'punch 0 8192']);
  });

  it('skip what is in the wanted state already', () => {
    const { vm, guest, events } = open();
    guest.convert({ gpa: 0x2000n, size: page, to: 'private' });
    guest.convert({ gpa: 0x4000n, size: page, to: 'private' });
    vm.takeLog();
    expect(guest.convert({ gpa: 0x1000n, size: 5 * page, to: 'private' }).changed).toBe(3 * page);
    expect(vm.takeLog().filter((line) => line.startsWith('attributes'))).toEqual([
      'attributes 0x1000 4096 private',
      'attributes 0x3000 4096 private',
      'attributes 0x5000 4096 private',
    ]);
    const count = events.length;
    expect(guest.convert({ gpa: 0x1000n, size: 5 * page, to: 'private' })).toMatchObject({ changed: 0, discarded: 0 });
    expect(vm.takeLog()).toEqual([]);
    expect(events).toHaveLength(count);
  });

  it('follow the policy, of the address space or of the call', () => {
    const there = { gpa: 0n, size: page, to: 'private' } as const;
    const back = { gpa: 0n, size: page, to: 'shared' } as const;
    for (const [discard, dropped, punched] of [
      ['both', 1, 1],
      ['shared', 1, 0],
      ['private', 0, 1],
      ['none', 0, 0],
    ] as const) {
      for (const { guest, vm } of [open({ discard }), open({ discard: discard === 'none' ? 'both' : 'none' })]) {
        const call = guest.discardPolicy === discard ? {} : { discard };
        expect(guest.convert({ ...there, ...call }).discarded).toBe(dropped * page);
        expect(guest.convert({ ...back, ...call }).discarded).toBe(punched * page);
        expect(vm.takeLog()).toHaveLength(2 + dropped + punched);
      }
    }
  });

  it('drop a huge page only when all of it is private', () => {
    const vm = new PlainVm();
    const guest = new GuestMemory(vm);
    guest.add({ gpa: 0n, size: 4 * MiB, private: true, backing: { kind: 'hugetlb' } });
    vm.takeLog();
    expect(guest.convert({ gpa: 0n, size: MiB, to: 'private' }).discarded).toBe(0);
    expect(guest.convert({ gpa: BigInt(MiB), size: MiB + page, to: 'private' }).discarded).toBe(2 * MiB);
    expect(vm.takeLog()).toEqual([
      'attributes 0x0 1048576 private',
      'attributes 0x100000 1052672 private',
      'madvise 4 0 2097152',
    ]);
  });

  it("leave the pages of a user's file alone", () => {
    const vm = new PlainVm();
    const guest = new GuestMemory(vm);
    guest.add({ gpa: 0n, size: page, private: true, backing: { kind: 'file', path: 'disk.img', writable: true } });
    expect(guest.convert({ gpa: 0n, size: page, to: 'private' })).toMatchObject({ changed: page, discarded: 0 });
  });

  it('say what the kernel has when it refuses in the middle', () => {
    const { vm, guest } = open();
    guest.convert({ gpa: 0x2000n, size: page, to: 'private' });
    const set = vm.setMemoryAttributes.bind(vm);
    vm.setMemoryAttributes = (request) => {
      if (request.address === 0x3000n) throw systemError('ENOMEM', -12, 'KVM_SET_MEMORY_ATTRIBUTES');
      set(request);
    };
    expect(() => guest.convert({ gpa: 0n, size: 8 * page, to: 'private' })).toThrow(
      expect.objectContaining({
        name: 'KvmSystemError',
        code: 'ENOMEM',
        errno: -12,
        message: expect.stringContaining('failed at 0x3000, with 8192 bytes converted before it'),
      }),
    );
    expect(states(guest)).toEqual(['0+3 private', '3+509 shared']);
  });

  it('are done even where the discard fails, which is told', () => {
    const { vm, guest, events } = open();
    guest.convert({ gpa: 0n, size: page, to: 'private' });
    vm.failures.set('punch', systemError('EIO', -5, 'fallocate'));
    expect(() => guest.convert({ gpa: 0n, size: page, to: 'shared' })).toThrow(
      /0x0-0x1000 is shared now, but the side left behind/,
    );
    expect(guest.attributes.at(0n)).toBe('shared');
    expect(events.at(-1)).toMatchObject({ to: 'shared', discarded: 0, discardError: { code: 'EIO' } });
    expect(guest.account().private.populated).toEqual({ atLeast: 0, atMost: page });
  });

  it('ask the kernel for at most 1 GiB at a time', () => {
    const vm = new PlainVm();
    const guest = new GuestMemory(vm);
    guest.add({ gpa: 0n, size: 4096, private: true });
    const region = guest.region(0n)!;
    expect(region.size).toBe(4096);
    guest.remove(region);
    guest.add({ gpa: 1n << 32n, size: 2.5 * 2 ** 30, private: true, backing: { kind: 'none' } });
    vm.takeLog();
    guest.convert({ gpa: 1n << 32n, size: 2.5 * 2 ** 30, to: 'private' });
    expect(vm.takeLog()).toEqual([
      'attributes 0x100000000 1073741824 private',
      'attributes 0x140000000 1073741824 private',
      'attributes 0x180000000 536870912 private',
    ]);
  });
});

describe('bad input to convert', () => {
  const { vm, guest } = open();
  const cases: [string, unknown, ErrorConstructor | undefined, RegExp][] = [
    ['an unaligned gpa', { gpa: 8n, size: page, to: 'private' }, RangeError, /multiple of 4096 for gpa/],
    ['an unaligned size', { gpa: 0n, size: 8, to: 'private' }, RangeError, /multiple of 4096 for size/],
    ['size zero', { gpa: 0n, size: 0, to: 'private' }, RangeError, /above 0/],
    ['a number for a gpa', { gpa: 0, size: page, to: 'private' }, TypeError, /write 0n/],
    ['a gpa over 2^52', { gpa: 1n << 53n, size: page, to: 'private' }, RangeError, /gpa/],
    ['a range of 2^52 bytes', { gpa: 0n, size: 2 ** 52, to: 'private' }, RangeError, /it ends at 0x20000/],
    ['a range over a hole', { gpa: 0x1f000n, size: 2 * page, to: 'shared' }, RangeError, /it ends at 0x20000/],
    ['a slot without guest_memfd', { gpa: 0x100000n, size: page, to: 'private' }, undefined, /has no guest_memfd/],
    ['another word', { gpa: 0n, size: page, to: 'privat' }, RangeError, /did you mean 'private'/],
    ['another policy', { gpa: 0n, size: page, to: 'private', discard: 'all' }, RangeError, /discard/],
    ['a misspelt key', { gpa: 0n, size: page, to: 'private', discards: 'both' }, TypeError, /did you mean discard/],
  ];
  for (const [name, options, type, text] of cases) {
    it(`refuses ${name} before the kernel sees it`, async () => {
      expect(() => guest.convert(options as never)).toThrow(type ?? Error);
      expect(() => guest.convert(options as never)).toThrow(text);
      await expect(guest.convertAsync(options as never)).rejects.toThrow(text);
      expect(vm.takeLog()).toEqual([]);
    });
  }
});

describe('KVM_HC_MAP_GPA_RANGE (with plain buffers for a VM)', () => {
  const call = (args: bigint[], nr = 12) => ({ nr, args: [...args, 0n, 0n, 0n], ret: new BigInt64Array([-1000n]) });

  it('converts and answers 0', async () => {
    const { vm, guest, events } = open();
    const exit = call([0x2000n, 3n, 16n]);
    expect(guest.handleHypercall(exit)).toMatchObject({
      ret: 0n,
      conversion: { source: 'hypercall', changed: 3 * page },
    });
    expect(exit.ret[0]).toBe(0n);
    const back = call([0x2000n, 3n, 1n]);
    await guest.handleHypercallAsync(back);
    expect(back.ret[0]).toBe(0n);
    expect(states(guest)).toEqual(['0+512 shared']);
    expect(events).toHaveLength(2);
    expect(vm.takeLog()).toHaveLength(4);
  });

  it('leaves other hypercalls alone', () => {
    const { guest } = open();
    const exit = call([0n, 1n, 16n], 11);
    expect(guest.handleHypercall(exit)).toBeUndefined();
    expect(exit.ret[0]).toBe(-1000n);
  });

  const max = (1n << 64n) - 1n;
  const cases: [string, bigint[], bigint][] = [
    ['an unaligned gpa', [0x2001n, 1n, 16n], -22n],
    ['no pages', [0x2000n, 0n, 16n], -22n],
    ['2^40 pages', [0n, 1n << 40n, 16n], -22n],
    ['2^64 - 1 pages', [0n, max, 16n], -22n],
    ['2^52 pages, which wrap to 0 bytes', [0n, 1n << 52n, 16n], -22n],
    ['the last page of 2^64', [max - 4095n, 1n, 16n], -22n],
    ['a wrap', [max - 4095n, 2n, 16n], -22n],
    ['a gpa of 2^52', [1n << 52n, 1n, 16n], -22n],
    ['a range over the end of memory', [0x1f000n, 2n, 16n], -22n],
    ['a range beside memory', [0x80000n, 1n, 16n], -22n],
    ['reserved attributes', [0x2000n, 1n, 32n], -22n],
    ['a page size of 3', [0x2000n, 1n, 19n], -22n],
    ['all attributes', [0x2000n, 1n, max], -22n],
    ['memory without a private side', [0x100000n, 1n, 16n], -95n],
  ];
  for (const [name, args, ret] of cases) {
    it(`answers ${name} with ${ret} and does nothing`, async () => {
      const { vm, guest, events } = open();
      const exit = call(args);
      expect(guest.handleHypercall(exit)).toEqual({ ret });
      expect(exit.ret[0]).toBe(ret);
      const again = call(args);
      await guest.handleHypercallAsync(again);
      expect(again.ret[0]).toBe(ret);
      expect(vm.takeLog()).toEqual([]);
      expect(events).toEqual([]);
    });
  }

  it('makes shared what is shared anyway, on any slot', () => {
    const { vm, guest } = open();
    expect(guest.handleHypercall(call([0x100000n, 1n, 0n]))?.ret).toBe(0n);
    expect(vm.takeLog()).toEqual([]);
  });

  it('tells guest and program when the kernel refuses', () => {
    const { vm, guest } = open();
    vm.failures.set('attributes', systemError('ENOMEM', -12, 'KVM_SET_MEMORY_ATTRIBUTES'));
    const exit = call([0x2000n, 1n, 16n]);
    expect(guest.handleHypercall(exit)).toMatchObject({ ret: -12n, error: { code: 'ENOMEM' } });
    expect(exit.ret[0]).toBe(-12n);
    expect(guest.attributes.at(0x2000n)).toBe('shared');
  });
});

describe('KVM_EXIT_MEMORY_FAULT (with plain buffers for a VM)', () => {
  const fault = (gpa: bigint, wantsPrivate: boolean, size = 4096n) => ({
    gpa,
    size,
    private: wantsPrivate,
    errno: 'EFAULT' as const,
    flags: wantsPrivate ? 8n : 0n,
    reason: 'memory-fault' as const,
  });

  it('converts to what the access wanted', async () => {
    const { guest, events } = open();
    expect(guest.handleMemoryFault(fault(0x3000n, true))).toMatchObject({
      to: 'private',
      changed: page,
      source: 'memory-fault',
    });
    expect(guest.handleMemoryFault(fault(0x3000n, false))).toMatchObject({ to: 'shared', changed: page });
    expect(await guest.handleMemoryFaultAsync(fault(0x3010n, true, 8n))).toMatchObject({ gpa: 0x3000n, size: page });
    expect(events).toHaveLength(3);
  });

  it('surfaces the second fault in a row that changes nothing', () => {
    const { guest } = open();
    guest.handleMemoryFault(fault(0x3000n, true));
    expect(guest.handleMemoryFault(fault(0x3000n, true)).changed).toBe(0);
    expect(() => guest.handleMemoryFault(fault(0x3000n, true))).toThrow(
      expect.objectContaining({
        name: 'KvmGuestError',
        exit: expect.objectContaining({ gpa: 0x3000n }),
        message: expect.stringContaining('again and again'),
      }),
    );
  });

  it('counts anew after a change there, and by vCPU where it is told', () => {
    const { guest } = open();
    guest.handleMemoryFault(fault(0x3000n, true), { vcpu: 0 });
    for (let vcpu = 1; vcpu < 8; vcpu++)
      expect(guest.handleMemoryFault(fault(0x3000n, true), { vcpu }).changed).toBe(0);
    guest.convert({ gpa: 0x3000n, size: page, to: 'shared' });
    guest.handleMemoryFault(fault(0x3000n, true), { vcpu: 1 });
    expect(guest.handleMemoryFault(fault(0x3000n, true), { vcpu: 1 }).changed).toBe(0);
    expect(() => guest.handleMemoryFault(fault(0x3000n, true), { vcpu: 1 })).toThrow('again and again');
  });

  it('says why an access cannot be served', () => {
    const { guest } = open();
    expect(() => guest.handleMemoryFault(fault(0x100000n, true))).toThrow(/has no guest_memfd/);
    expect(() => guest.handleMemoryFault(fault(0x50000n, true))).toThrow(/nothing is at 0x50000/);
    expect(() => guest.handleMemoryFault(fault((1n << 64n) - 4096n, true))).toThrow(/beyond the guest physical/);
    expect(() => guest.handleMemoryFault({ ...fault(0n, true), errno: 'EHWPOISON' })).toThrow(/hardware error/);
  });
});

describe('asynchronous conversions (with plain buffers for a VM)', () => {
  it('run one after another, in the order of the calls', async () => {
    const { vm, guest } = open();
    const all = [
      guest.convertAsync({ gpa: 0n, size: 2 * page, to: 'private' }),
      guest.convertAsync({ gpa: 0n, size: page, to: 'shared' }),
      guest.convertAsync({ gpa: 0n, size: 2 * page, to: 'private' }),
    ];
    expect((await Promise.all(all)).map(({ changed }) => changed)).toEqual([2 * page, page, page]);
    expect(vm.takeLog()).toEqual([
      'attributes 0x0 8192 private',
      'madvise 4 0 8192',
      'attributes 0x0 4096 shared',
      'punch 0 4096',
      'attributes 0x0 4096 private',
      'madvise 4 0 4096',
    ]);
  });

  it('keep synchronous ones, and removal, off their range', async () => {
    const { vm, guest } = open();
    let open1 = (): void => {};
    const gate = new Promise<void>((resolve) => (open1 = resolve));
    const setAsync = vm.setMemoryAttributesAsync.bind(vm);
    vm.setMemoryAttributesAsync = async (request) => {
      await gate;
      return setAsync(request);
    };
    const running = guest.convertAsync({ gpa: 0x2000n, size: 2 * page, to: 'private' });
    await Promise.resolve();
    await Promise.resolve();
    const busy = expect.objectContaining({ code: 'ERR_KVM_BUSY' });
    expect(() => guest.convert({ gpa: 0x3000n, size: page, to: 'shared' })).toThrow(busy);
    expect(() => guest.discard({ gpa: 0x3000n, size: page, side: 'private' })).toThrow(busy);
    expect(() => guest.regions[0]!.remove()).toThrow(busy);
    expect(guest.handleHypercall({ nr: 12, args: [0x2000n, 1n, 16n], ret: new BigInt64Array(1) })?.ret).toBe(-11n);
    expect(guest.convert({ gpa: 0x8000n, size: page, to: 'private' }).changed).toBe(page);
    open1();
    expect((await running).changed).toBe(2 * page);
    expect(guest.convert({ gpa: 0x3000n, size: page, to: 'shared' }).changed).toBe(page);
    expect(states(guest)).toEqual(['0+2 shared', '2+1 private', '3+5 shared', '8+1 private', '9+503 shared']);
  });

  it('go on after one that failed, and notice slots that went while they waited', async () => {
    const { vm, guest } = open();
    vm.failures.set('attributes', systemError('ENOMEM', -12, 'KVM_SET_MEMORY_ATTRIBUTES'));
    const first = guest.convertAsync({ gpa: 0n, size: page, to: 'private' });
    const second = guest.convertAsync({ gpa: 0x10000n, size: page, to: 'private' });
    await expect(first).rejects.toMatchObject({ code: 'ENOMEM' });
    expect((await second).changed).toBe(page);
    const third = guest.convertAsync({ gpa: 0n, size: page, to: 'private' });
    guest.regions[0]!.remove();
    await expect(third).rejects.toThrow(/inside guest memory/);
  });
});
