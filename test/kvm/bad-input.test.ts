/** Bad input to the handles: each a clear error, nothing changed by it, nothing left open, and the VM as good as before. */
import { describe, expect } from 'vitest';
import { Eventfd, HostMapping, Kvm } from '../../lib/kvm/index.ts';
import type { Vm } from '../../lib/kvm/index.ts';
import { native } from '../../lib/native.ts';
import { kvmTest } from './support.ts';

const PAGE = 4096;
const SIZE = 4 * PAGE;

interface Scene {
  readonly vm: Vm;
  readonly mapping: HostMapping;
  /** Closed. */
  readonly gone: HostMapping;
  /** Of a VM that is closed. */
  readonly goneEventfd: Eventfd;
  readonly eventfd: Eventfd;
}

type Case = readonly [what: string, use: (scene: Scene) => unknown, error: ErrorConstructor | string, message: RegExp];

const region = (scene: Scene, change: object): unknown =>
  scene.vm.setUserMemoryRegion({ slot: 1, gpa: 0x10_0000n, size: SIZE, mapping: scene.mapping, ...change });

const CASES: readonly Case[] = [
  [
    'an unaligned gpa',
    (s) => region(s, { gpa: 0x1001n }),
    RangeError,
    /Expected a multiple of 4096 for region\.gpa but received 4097n/,
  ],
  [
    'an unaligned size',
    (s) => region(s, { size: 100 }),
    RangeError,
    /multiple of 4096 for region\.size but received 100/,
  ],
  [
    'an unaligned offset',
    (s) => region(s, { mappingOffset: 1, size: PAGE }),
    RangeError,
    /multiple of 4096 for region\.mappingOffset/,
  ],
  ['a negative size', (s) => region(s, { size: -PAGE }), RangeError, /region\.size/],
  ['a size that is no number', (s) => region(s, { size: Number.NaN }), RangeError, /region\.size/],
  ['a size as a bigint', (s) => region(s, { size: 4096n }), TypeError, /without the n/],
  [
    'a gpa as a number',
    (s) => region(s, { gpa: 0x1000 }),
    TypeError,
    /Expected a bigint for region\.gpa but received 4096 .*; write 4096n/,
  ],
  ['a gpa over 2^52', (s) => region(s, { gpa: 1n << 52n }), RangeError, /below 2\^52/],
  ['a range that ends past 2^52', (s) => region(s, { gpa: (1n << 52n) - 4096n, size: 2 * PAGE }), RangeError, /52-bit/],
  ['a gpa below 0', (s) => region(s, { gpa: -4096n }), RangeError, /0 or more/],
  ['a gpa over 2^64', (s) => region(s, { gpa: 1n << 64n }), RangeError, /2\^52/],
  [
    'an offset past the end of the mapping',
    (s) => region(s, { mappingOffset: SIZE, size: PAGE }),
    RangeError,
    /inside the mapping's 16384 bytes/,
  ],
  ['a size past the end of the mapping', (s) => region(s, { mappingOffset: PAGE }), RangeError, /at most 12288 bytes/],
  ['a slot that overlaps', (s) => region(s, { gpa: 0x3000n }), RangeError, /slot 0 has 0x0 to 0x4000/],
  ['a slot over the limit', (s) => region(s, { slot: 0xffff }), RangeError, /KVM_CAP_NR_MEMSLOTS/],
  ['a slot that is no number', (s) => region(s, { slot: '1' }), TypeError, /region\.slot/],
  ['unknown flags', (s) => region(s, { flags: 8 }), RangeError, /KVM_MEM_LOG_DIRTY_PAGES \(1\)/],
  ['the flag of guest_memfd without one', (s) => region(s, { flags: 4 }), TypeError, /guestMemfd/],
  ['no mapping', (s) => region(s, { mapping: undefined }), TypeError, /mapping/],
  [
    'a plain object as a mapping',
    (s) => region(s, { mapping: { length: SIZE } }),
    TypeError,
    /Expected a HostMapping for region\.mapping/,
  ],
  ['an eventfd as a mapping', (s) => region(s, { mapping: s.eventfd }), TypeError, /an instance of Eventfd/],
  [
    'a closed mapping',
    (s) => region(s, { mapping: s.gone }),
    'ERR_KVM_CLOSED',
    /HostMapping given as region\.mapping is closed/,
  ],
  ['a misspelt key', (s) => region(s, { mapingOffset: 0 }), TypeError, /did you mean mappingOffset/],
  ['nothing at all', (s) => s.vm.setUserMemoryRegion(undefined as never), TypeError, /Expected/],
  ['a slot to delete that is no number', (s) => s.vm.deleteMemslot(0n as never), TypeError, /slot/],
  [
    'a closed eventfd for an ioeventfd',
    (s) => s.vm.ioeventfd({ eventfd: s.goneEventfd, address: 0n, length: 1, pio: true }),
    'ERR_KVM_CLOSED',
    /given as eventfd is closed/,
  ],
  [
    'a mapping as an eventfd',
    (s) => s.vm.ioeventfd({ eventfd: s.mapping as never, address: 0n, length: 1 }),
    TypeError,
    /an Eventfd/,
  ],
  [
    'an ioeventfd of 3 bytes',
    (s) => s.vm.ioeventfd({ eventfd: s.eventfd, address: 0n, length: 3 as never }),
    RangeError,
    /0, 1, 2, 4 or 8/,
  ],
  [
    'a datamatch that does not fit',
    (s) => s.vm.ioeventfd({ eventfd: s.eventfd, address: 0n, length: 1, datamatch: 256n }),
    RangeError,
    /value of 1 bytes/,
  ],
  [
    'a port over 65535',
    (s) => s.vm.ioeventfd({ eventfd: s.eventfd, address: 0x1_0000n, length: 1, pio: true }),
    RangeError,
    /port below 65536/,
  ],
  ['a dirty log of a slot that is not there', (s) => s.vm.getDirtyLog(9), 'ERR_KVM_STATE', /Slot 9/],
  [
    'a dirty log into too short an array',
    (s) => s.vm.getDirtyLog(0, new Uint8Array(1)),
    RangeError,
    /at least 8 bytes/,
  ],
  [
    'a route to a pin that is not there',
    (s) => s.vm.setGsiRouting([{ gsi: 0, type: 'irqchip', chip: 'pic-master', pin: 8 }]),
    RangeError,
    /pin/,
  ],
  ['an MSR filter without ranges', (s) => s.vm.setMsrFilter({ ranges: 5 } as never), TypeError, /ranges/],
  [
    'an encrypted region of a closed mapping',
    (s) => s.vm.memoryEncryptRegRegion({ mapping: s.gone, offset: 0, size: PAGE }),
    'ERR_KVM_CLOSED',
    /closed/,
  ],
  ['a clock as a number', (s) => s.vm.setClock({ clock: 5 } as never), TypeError, /bigint/],
];

describe('bad input', () => {
  for (const [what, use, error, message] of CASES) {
    kvmTest(`${what}: a clear error, and nothing changed`, () => {
      const empty = native().census();
      const kvm = Kvm.open();
      const vm = kvm.createVm();
      const [mapping, gone] = [HostMapping.anonymous(SIZE), HostMapping.anonymous(SIZE)];
      const [eventfd, goneEventfd] = [Eventfd.create(), Eventfd.create()];
      gone.close();
      goneEventfd.close();
      try {
        vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: SIZE, mapping });
        const before = native().census();
        const slots = [...vm.memslots.values()];
        const call = (): unknown => use({ vm, mapping, gone, eventfd, goneEventfd });
        expect(call).toThrow(typeof error === 'string' ? (expect.objectContaining({ code: error }) as Error) : error);
        expect(call).toThrow(message);
        expect(native().census()).toEqual(before);
        expect([...vm.memslots.values()]).toEqual(slots);
        vm.setUserMemoryRegion({ slot: 1, gpa: 0x10_0000n, size: SIZE, mapping });
      } finally {
        kvm.close();
        mapping.close();
        eventfd.close();
      }
      expect(native().census()).toEqual(empty);
    });
  }
});
