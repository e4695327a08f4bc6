/**
 * Conversions that nobody asks for by name: the guest touches private memory that is not there, the run ends with a
 * memory fault, the host converts, and the guest goes on. In a sw-protected VM the attribute says what an access is, so
 * this is the only kind of implicit conversion that there is.
 */
import { describe, expect } from 'vitest';
import { GuestMemory } from '../../lib/index.ts';
import type { HostMapping, MemoryFaultExit, Vm } from '../../lib/index.ts';
import { KVM_MEMORY_ATTRIBUTE_PRIVATE } from '../../lib/abi/index.ts';
import { withKvm } from '../kvm/support.ts';
import { AREA_GPA, expectBytes, mapBacking } from './guest-area.ts';
import { LOW_SIZE, writeGuest } from './guest-code.ts';
import { CHUNK_SIZE, RANGES } from './guest-scenario.ts';
import { compare, fill, Guest } from './guest-vcpu.ts';
import type { Range } from './guest-vcpu.ts';
import { PAGE, pointTest } from './support.ts';

const PRIVATE = BigInt(KVM_MEMORY_ATTRIBUTE_PRIVATE);
const CHUNK: Range = { gpa: AREA_GPA, size: CHUNK_SIZE };
const needs = ['private-memory'] as const;

/** Each range in turn is private without anything behind it; each page becomes shared when it is touched. */
async function eachRange(
  guest: Guest,
  hide: (range: Range) => void,
  host: (range: Range, byte: number) => void,
  faults: MemoryFaultExit[],
): Promise<void> {
  await guest.run(fill(CHUNK, 0xc0));
  for (const [offset, size] of RANGES) {
    const range = { gpa: AREA_GPA + BigInt(offset), size };
    hide(range);
    faults.length = 0;
    await guest.run(fill(range, 0x21), compare(range, 0x21));
    // Once for each page, in order, and for nothing else.
    expect(faults.map(({ gpa }) => Number(gpa - range.gpa) / PAGE)).toEqual([...Array(size / PAGE).keys()]);
    const kinds = new Set(faults.map((fault) => `${fault.private} ${fault.size} ${fault.flags}`));
    expect([...kinds]).toEqual(['true 4096 8']);
    host(range, 0x21);
    const rest = { gpa: range.gpa + BigInt(size), size: CHUNK_SIZE - offset - size };
    if (rest.size > 0) {
      host(rest, 0xc0);
      await guest.run(compare(rest, 0xc0));
    }
    await guest.run(fill(CHUNK, 0xc0));
  }
}

describe('3 conversions: implicit', () => {
  for (const backing of ['anonymous', 'memfd'] as const) {
    const variant = `implicit, the test's own handling, ${backing} memory`;
    pointTest('3.3', { needs, variant }, () =>
      withKvm(async (kvm) => {
        const vm = kvm.createVm('sw-protected');
        using low = mapBacking(LOW_SIZE, 'anonymous');
        using mapping = mapBacking(CHUNK_SIZE, backing);
        vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: LOW_SIZE, mapping: low });
        vm.setUserMemoryRegion({ slot: 10, gpa: AREA_GPA, size: CHUNK_SIZE, mapping });
        writeGuest(low.view());
        const faults: MemoryFaultExit[] = [];
        const set = (gpa: bigint, size: number | bigint, attributes: bigint): void =>
          vm.setMemoryAttributes({ address: gpa, size, attributes });
        const guest = new Guest(vm, 0, low.view(), {
          handlers: {
            memoryFault: (exit) => {
              faults.push(exit);
              set(exit.gpa, exit.size, 0n);
            },
          },
        });
        await eachRange(guest, ({ gpa, size }) => set(gpa, size, PRIVATE), hostReads(mapping), faults);
        vm.close();
      }),
    );
  }

  pointTest('3.3', { needs, variant: 'implicit, engine, becoming shared' }, () =>
    withKvm(async (kvm) => {
      const vm = kvm.createVm('sw-protected');
      const { memory, low } = space(vm);
      const guestMemfd = vm.createGuestMemfd(CHUNK_SIZE);
      memory.add({ ...CHUNK, private: { guestMemfd } });
      const faults: MemoryFaultExit[] = [];
      const guest = new Guest(vm, 0, low, {
        handlers: {
          memoryFault: ({ gpa, size, ...exit }) => {
            faults.push({ gpa, size, ...exit });
            memory.convert({ gpa, size: Number(size), to: 'shared', discard: 'none' });
          },
        },
      });
      // Its pages are gone with it, and nothing can be private any more.
      guestMemfd.close();
      const hide = (range: Range): void => {
        memory.convert({ ...range, to: 'private', discard: 'none' });
      };
      const host = (range: Range, byte: number): void =>
        expectBytes((into) => memory.readInto(range.gpa, into), range, byte);
      await eachRange(guest, hide, host, faults);
      memory.close();
      vm.close();
    }),
  );

  pointTest('3.3', { needs, variant: 'implicit, engine, becoming private' }, () =>
    withKvm(async (kvm) => {
      const vm = kvm.createVm('sw-protected');
      const { memory, low } = space(vm);
      const cut = vm.createGuestMemfd(CHUNK_SIZE);
      let region = memory.add({ ...CHUNK, private: { guestMemfd: cut }, attributes: 'private' });
      const conversions: string[] = [];
      const guest = new Guest(vm, 0, low, {
        handlers: {
          memoryFault: (exit) => {
            if (conversions.length === 0) {
              // The guest wants what was private: it gets memory of that kind, shared until its fault is served.
              memory.remove(region, { keepGuestMemfd: false });
              region = memory.add({ ...CHUNK, private: true });
            }
            const { to, source, changed } = memory.handleMemoryFault(exit, { vcpu: 0 });
            conversions.push(`${to} ${source} ${changed}`);
          },
        },
      });
      cut.close();
      const range = { gpa: AREA_GPA + BigInt(PAGE), size: PAGE };
      await guest.run(fill(range, 0x21), compare(range, 0x21));
      expect(conversions).toEqual([`private memory-fault ${PAGE}`]);
      expect(memory.attributes.at(range.gpa)).toBe('private');
      expectBytes((into) => memory.readInto(range.gpa, into, { side: 'shared' }), range, 0);
      // The rest of it stayed shared, and both sides see the same there.
      const rest = { gpa: AREA_GPA + BigInt(2 * PAGE), size: CHUNK_SIZE - 2 * PAGE };
      await guest.run(fill(rest, 0x43));
      expectBytes((into) => memory.readInto(rest.gpa, into), rest, 0x43);
      memory.close();
      vm.close();
    }),
  );
});

function space(vm: Vm): { memory: GuestMemory; low: Uint8Array } {
  const memory = new GuestMemory(vm);
  memory.add({ gpa: 0n, size: LOW_SIZE });
  const low = memory.view(0n, LOW_SIZE);
  writeGuest(low);
  return { memory, low };
}

function hostReads(mapping: HostMapping): (range: Range, byte: number) => void {
  return (range, byte) => expectBytes((into) => mapping.read(Number(range.gpa - AREA_GPA), into), range, byte);
}
