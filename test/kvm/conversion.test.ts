import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { VcpuExitOf } from '../../lib/kvm/index.ts';
import type { Conversion } from '../../lib/memory/index.ts';
import { CODE, load, machine, PAGE, privateTest, SIZE, store } from './memory-guest.ts';
import type { MachineOptions } from './memory-guest.ts';
import { inLab } from './support.ts';

const MiB = 2 ** 20;

/** vmmcall, with what the processor of the other vendor has patched by KVM; then hlt. */
const HYPERCALL = [0x0f, 0x01, 0xd9, 0xf4];

/** A test that changes the machine that it runs on. */
const labTest = (name: string, run: () => void): void => {
  if (inLab) privateTest(name, run);
  else it.skip(`${name} [needs the lab]`, run);
};

/** Reserves huge pages while it is used. */
function hugePages(count: number): Disposable {
  const path = '/proc/sys/vm/nr_hugepages';
  const set = (pages: number): void => writeFileSync(path, `${pages}`);
  const before = Number(readFileSync(path, 'utf8'));
  set(before + count);
  return { [Symbol.dispose]: () => set(before) };
}

function open(options: MachineOptions = {}) {
  const opened = machine({
    type: 'sw-protected',
    private: true,
    prepare: (vm) => vm.enableExitHypercall(),
    ...options,
  });
  const events: Conversion[] = [];
  opened.memory.on('conversion', (conversion) => events.push(conversion));
  const mapGpaRange = (gpa: bigint, pages: bigint, attributes: bigint): VcpuExitOf<'hypercall'> => {
    const exit = opened.run(HYPERCALL, { rax: 12n, rbx: gpa, rcx: pages, rdx: attributes });
    expect(exit).toMatchObject({ reason: 'hypercall', nr: 12 });
    return exit as VcpuExitOf<'hypercall'>;
  };
  return { ...opened, events, mapGpaRange };
}

describe('conversions in a sw-protected VM', () => {
  const at = { gpa: 0x3000n, size: PAGE };

  privateTest('show the guest another copy, which the host cannot see', () => {
    const { memory, peek, poke, events } = open({ discard: 'none' });
    memory.writeU8(0x3000n, 0x42);
    expect(peek(0x3000n)).toBe(0x42);
    memory.convert({ ...at, to: 'private' });
    expect(memory.attributesOn).toBe('vm');
    expect(peek(0x3000n)).toBe(0);
    poke(0x3000n, 0x77);
    expect(peek(0x3000n)).toBe(0x77);
    expect(() => memory.readU8(0x3000n)).toThrow(expect.objectContaining({ code: 'ERR_KVM_PRIVATE' }));
    expect(memory.readU8(0x3000n, { side: 'shared' })).toBe(0x42);
    // Nothing is discarded, so each side shows what it held before.
    memory.convert({ ...at, to: 'shared' });
    expect([peek(0x3000n), memory.readU8(0x3000n)]).toEqual([0x42, 0x42]);
    memory.convert({ ...at, to: 'private' });
    expect(peek(0x3000n)).toBe(0x77);
    expect(events.map(({ changed, discarded, source }) => [changed, discarded, source])).toEqual(
      Array.from({ length: 3 }, () => [PAGE, 0, 'explicit']),
    );
  });

  for (const backing of [{ kind: 'anonymous' }, { kind: 'shared' }, { kind: 'memfd' }] as const) {
    privateTest(`discard both sides by default, over ${backing.kind} memory`, () => {
      const { memory, peek, poke } = open({ backing });
      memory.fill(0x3000n, PAGE, 0x42);
      const before = memory.account().shared.populated;
      memory.convert({ ...at, to: 'private' });
      expect(memory.readU8(0x3000n, { side: 'shared' })).toBe(0);
      expect(before).toBeGreaterThanOrEqual(PAGE);
      poke(0x3000n, 0x77);
      memory.convert({ ...at, to: 'shared' });
      expect(peek(0x3000n)).toBe(0);
      poke(0x3000n, 0x55);
      memory.convert({ ...at, to: 'private' });
      // The hole was punched when it became shared: the old 0x77 does not come back.
      expect(peek(0x3000n)).toBe(0);
    });
  }

  privateTest('follow the other policies', () => {
    const { memory, peek, poke } = open();
    for (const [discard, sharedAfter, privateAfter] of [
      ['private', 0x42, 0],
      ['shared', 0, 0x77],
      ['none', 0x42, 0x77],
      ['both', 0, 0],
    ] as const) {
      memory.writeU8(0x3000n, 0x42);
      memory.convert({ ...at, to: 'private', discard });
      poke(0x3000n, 0x77);
      expect(memory.readU8(0x3000n, { side: 'shared' })).toBe(sharedAfter);
      memory.convert({ ...at, to: 'shared', discard });
      memory.convert({ ...at, to: 'private', discard: 'none' });
      expect(peek(0x3000n)).toBe(privateAfter);
      memory.convert({ ...at, to: 'shared', discard: 'both' });
    }
  });

  privateTest('show doubled memory in the account, and its end', () => {
    const { memory, poke } = open({ discard: 'none' });
    memory.fill(0x4000n, 4 * PAGE, 1);
    memory.convert({ gpa: 0x4000n, size: 4 * PAGE, to: 'private' });
    for (let page = 4; page < 8; page++) poke(BigInt(page * PAGE), 2);
    // Four pages on either side, and the page of the code.
    expect(memory.account()).toMatchObject({
      private: { bytes: 4 * PAGE, populated: { atLeast: 0, atMost: 4 * PAGE } },
      doubled: { atLeast: 0, atMost: 4 * PAGE },
    });
    memory.allocate({ gpa: 0x4000n, size: 4 * PAGE });
    expect(memory.account().doubled).toEqual({ atLeast: 4 * PAGE, atMost: 4 * PAGE });
    expect(memory.discard({ gpa: 0x4000n, size: 4 * PAGE, side: 'shared' })).toBe(4 * PAGE);
    expect(memory.account().doubled).toEqual({ atLeast: 0, atMost: 0 });
    expect(memory.account().shared.populated).toBeLessThanOrEqual(2 * PAGE);
  });

  privateTest('go over slots', () => {
    const { memory, peek, poke } = open({ bare: true });
    memory.add({ gpa: 0n, size: 4 * PAGE, private: true });
    memory.add({ gpa: 0x4000n, size: 4 * PAGE, private: true, backing: { kind: 'memfd' } });
    memory.fill(0x3000n, 2 * PAGE, 0x42);
    expect(memory.convert({ gpa: 0x3000n, size: 2 * PAGE, to: 'private' })).toMatchObject({
      changed: 2 * PAGE,
      discarded: 2 * PAGE,
    });
    expect([peek(0x3000n), peek(0x4000n)]).toEqual([0, 0]);
    poke(0x4000n, 0x66);
    expect(memory.read(0x3000n, 2 * PAGE, { side: 'shared' }).every((byte) => byte === 0)).toBe(true);
  });

  privateTest('keep private content in a guest_memfd that is bound again', () => {
    const { memory, vm, peek, poke } = open({ bare: true });
    memory.add({ gpa: 0n, size: 2 * PAGE });
    const guestMemfd = vm.createGuestMemfd(4 * PAGE);
    const region = memory.add({
      gpa: 0x3000n,
      size: PAGE,
      private: { guestMemfd, offset: 4096n },
      attributes: 'private',
    });
    poke(0x3000n, 0x77);
    region.remove();
    const again = memory.add({ gpa: 0x3000n, size: PAGE, private: { guestMemfd, offset: 4096n } });
    expect(memory.attributes.at(0x3000n)).toBe('private');
    expect(peek(0x3000n)).toBe(0x77);
    again.remove();
    // At another address, too.
    memory.add({ gpa: 0x8000n, size: PAGE, private: { guestMemfd, offset: 4096n }, attributes: 'private' });
    expect(peek(0x8000n)).toBe(0x77);
    // And an ordinary slot in the old place is not private any more.
    memory.add({ gpa: 0x3000n, size: PAGE });
    memory.writeU8(0x3000n, 5);
    expect(peek(0x3000n)).toBe(5);
  });

  privateTest('refuse a guest_memfd of another VM and a range that is bound already', () => {
    const { memory } = open();
    const other = open();
    const guestMemfd = other.memory.regions[0]!.guestMemfd!;
    expect(() => memory.add({ gpa: 0x10_0000n, size: SIZE, private: { guestMemfd } })).toThrow(/belongs to another VM/);
    expect(() => other.memory.add({ gpa: 0x10_0000n, size: SIZE, private: { guestMemfd } })).toThrow(
      /slot 0 has 0x0-0x10000 of it/,
    );
    expect(memory.regions).toHaveLength(1);
  });

  privateTest('have memory without a shared side', () => {
    const { memory, peek, poke } = open();
    memory.region(0n)!.remove();
    memory.add({ gpa: 0n, size: 2 * PAGE });
    memory.add({ gpa: 0x2000n, size: 2 * PAGE, private: true, backing: { kind: 'none' }, attributes: 'private' });
    poke(0x3000n, 0x31);
    expect(peek(0x3000n)).toBe(0x31);
    expect(() => memory.readU8(0x3000n, { side: 'shared' })).toThrow(/no shared side/);
    expect(memory.account(memory.region(0x3000n))).toMatchObject({ shared: { bytes: 0, populated: 0 } });
  });

  privateTest('work off the main thread', async () => {
    const { memory, peek, poke } = open();
    const conversion = memory.convertAsync({ gpa: 0x2000n, size: 4 * PAGE, to: 'private' });
    let turns = 0;
    const ticking = (async () => {
      for (; turns < 3; turns++) await sleep(0);
    })();
    expect((await conversion).changed).toBe(4 * PAGE);
    await ticking;
    poke(0x3000n, 1);
    expect(await memory.discardAsync({ ...at, side: 'private' })).toBe(PAGE);
    expect(peek(0x3000n)).toBe(0);
    expect(await memory.allocateAsync(at)).toBe(PAGE);
    const all = ['shared', 'private', 'shared'].map((to) => memory.convertAsync({ ...at, to: to as 'shared' }));
    expect((await Promise.all(all)).map(({ changed }) => changed)).toEqual([PAGE, PAGE, PAGE]);
    expect(memory.attributes.at(0x3000n)).toBe('shared');
  });

  labTest('drop a huge page once all of it is private', () => {
    const { memory } = open();
    const gpa = 2n ** 32n;
    using _ = hugePages(2);
    memory.add({ gpa, size: 4 * MiB, private: true, backing: { kind: 'hugetlb' } });
    memory.fill(gpa, 4 * MiB, 0x42);
    expect(memory.convert({ gpa, size: MiB, to: 'private' }).discarded).toBe(0);
    expect(memory.readU8(gpa, { side: 'shared' })).toBe(0x42);
    expect(memory.convert({ gpa: gpa + BigInt(MiB), size: MiB + PAGE, to: 'private' }).discarded).toBe(2 * MiB);
    expect(memory.readU8(gpa, { side: 'shared' })).toBe(0);
    expect(memory.readU8(gpa + BigInt(2 * MiB), { side: 'shared' })).toBe(0x42);
    expect(() => memory.view(gpa, 1, { side: 'shared' })).toThrow(
      expect.objectContaining({ code: 'ERR_KVM_UNSTABLE' }),
    );
  });

  privateTest('take 256 MiB at once', async () => {
    const { memory } = open();
    memory.add({ gpa: 2n ** 32n, size: 256 * MiB, private: true, backing: { kind: 'anonymous', noreserve: true } });
    const { changed, durationUs } = await memory.convertAsync({ gpa: 2n ** 32n, size: 256 * MiB, to: 'private' });
    expect(changed).toBe(256 * MiB);
    expect(durationUs).toBeGreaterThan(0);
    expect(memory.map().map(({ size, state }) => [size, state])).toEqual([
      [SIZE, 'shared'],
      [256 * MiB, 'private'],
    ]);
  });
});

describe('KVM_HC_MAP_GPA_RANGE in a sw-protected VM', () => {
  privateTest('converts there and back, and the guest goes on with 0', async () => {
    const { memory, vcpu, resume, peek, poke, mapGpaRange, events } = open();
    const exit = mapGpaRange(0x3000n, 2n, 16n);
    expect(memory.handleHypercall(exit)).toMatchObject({
      ret: 0n,
      conversion: { gpa: 0x3000n, size: 2 * PAGE, to: 'private' },
    });
    expect(resume().reason).toBe('hlt');
    expect(vcpu.getRegs().rax).toBe(0n);
    poke(0x3000n, 0x77);
    expect(peek(0x3000n)).toBe(0x77);
    expect(memory.readU8(0x3000n, { side: 'shared' })).toBe(0);
    expect((await memory.handleHypercallAsync(mapGpaRange(0x3000n, 1n, 1n)))?.ret).toBe(0n);
    expect(resume().reason).toBe('hlt');
    expect(peek(0x3000n)).toBe(0);
    expect(events.map(({ source }) => source)).toEqual(['hypercall', 'hypercall']);
    expect(memory.attributes.ranges(0x2000n, 4 * PAGE).map(({ state }) => state)).toEqual([
      'shared',
      'private',
      'shared',
    ]);
  });

  const cases: [string, bigint, bigint, bigint][] = [
    ['a range over the end of memory', 0xf000n, 2n, 16n],
    ['a range beside memory', 0x20_0000n, 1n, 16n],
    ['2^32 - 1 pages', 0n, 0xffff_ffffn, 16n],
    ['reserved attributes', 0x3000n, 1n, 0x20n],
    ['a page size that there is not', 0x3000n, 1n, 0x1fn],
  ];
  for (const [name, gpa, pages, attributes] of cases) {
    privateTest(`gives the guest -KVM_EINVAL for ${name}, and nothing else happens`, () => {
      const { memory, vcpu, resume, mapGpaRange, events, peek } = open();
      expect(memory.handleHypercall(mapGpaRange(gpa, pages, attributes))).toEqual({ ret: -22n });
      expect(resume().reason).toBe('hlt');
      expect(BigInt.asIntN(32, vcpu.getRegs().rax)).toBe(-22n);
      expect(events).toEqual([]);
      expect(memory.account().private.bytes).toBe(0);
      memory.writeU8(0x3000n, 6);
      expect(peek(0x3000n)).toBe(6);
    });
  }

  privateTest('gives the guest -KVM_EOPNOTSUPP for memory without a private side', () => {
    const { memory, vcpu, resume, mapGpaRange } = open();
    memory.add({ gpa: 0x10_0000n, size: PAGE });
    expect(memory.handleHypercall(mapGpaRange(0x10_0000n, 1n, 16n))?.ret).toBe(-95n);
    resume();
    expect(BigInt.asIntN(32, vcpu.getRegs().rax)).toBe(-95n);
  });
});

describe('KVM_EXIT_MEMORY_FAULT in a sw-protected VM', () => {
  function cut() {
    const opened = open({ bare: true });
    opened.memory.add({ gpa: 0n, size: 3 * PAGE });
    const guestMemfd = opened.vm.createGuestMemfd(PAGE);
    const region = opened.memory.add({ gpa: 0x3000n, size: PAGE, private: { guestMemfd }, attributes: 'private' });
    opened.poke(0x3000n, 0x77);
    guestMemfd.close();
    return { ...opened, region };
  }

  privateTest('comes for private memory whose guest_memfd was closed, and is served by a conversion', () => {
    const { memory, run, resume, vcpu } = cut();
    const exit = run(store(0x3000n, 0x55));
    expect(exit).toMatchObject({ reason: 'memory-fault', gpa: 0x3000n, size: 4096n, private: true, errno: 'EFAULT' });
    memory.convert({ gpa: 0x3000n, size: PAGE, to: 'shared', discard: 'shared' });
    expect(resume().reason).toBe('hlt');
    expect(memory.readU8(0x3000n)).toBe(0x55);
    expect(vcpu.getRegs().rip).toBe(CODE + 6n);
  });

  privateTest('is surfaced the second time when nothing was left to change', () => {
    const { memory, run, resume } = cut();
    const first = run(load(0x3000n)) as VcpuExitOf<'memory-fault'>;
    expect(memory.handleMemoryFault(first, { vcpu: 0 })).toMatchObject({ changed: 0, to: 'private' });
    const second = resume() as VcpuExitOf<'memory-fault'>;
    expect(second.reason).toBe('memory-fault');
    expect(() => memory.handleMemoryFault(second, { vcpu: 0 })).toThrow(
      expect.objectContaining({ name: 'KvmGuestError', exit: expect.objectContaining({ gpa: 0x3000n }) }),
    );
  });

  privateTest('is served once there is a guest_memfd again', async () => {
    const { memory, region, run, resume, vcpu, events } = cut();
    const exit = run(load(0x3000n)) as VcpuExitOf<'memory-fault'>;
    memory.remove(region, { keepGuestMemfd: false });
    memory.add({ gpa: 0x3000n, size: PAGE, private: true });
    expect(await memory.handleMemoryFaultAsync(exit, { vcpu: 0 })).toMatchObject({
      changed: PAGE,
      source: 'memory-fault',
    });
    expect(resume().reason).toBe('hlt');
    expect(vcpu.getRegs().rax & 0xffn).toBe(0n);
    expect(events.at(-1)?.source).toBe('memory-fault');
  });
});
