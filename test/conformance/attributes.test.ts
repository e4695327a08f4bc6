/** Section 6: the attribute call, and what else the kernel's tests do not look at. */
import { describe, expect, TestRunner } from 'vitest';
import { examineHost, GuestMemory, Kvm, KvmUnsupportedError, VM_TYPE_NAMES } from '../../lib/index.ts';
import type { Vm } from '../../lib/index.ts';
import { KVM_MEMORY_ATTRIBUTE_PRIVATE } from '../../lib/abi/index.ts';
import { withKvm } from '../kvm/support.ts';
import { AREA_GPA, RawArea } from './guest-area.ts';
import { askKernel, lacksCompiler } from './guest-kernel.ts';
import { writeGuest } from './guest-code.ts';
import { compare, fill, Guest } from './guest-vcpu.ts';
import { bits, kernelDiffers, kernelIs, outcome, PAGE, pointTest } from './support.ts';

declare module 'vitest' {
  interface TaskMeta {
    /** Where a run was: for the report that is made of it. */
    machine?: { readonly kernel: string; readonly cpu: string; readonly backend: string };
  }
}

const PRIVATE = BigInt(KVM_MEMORY_ATTRIBUTE_PRIVATE);
const page = { address: AREA_GPA, size: PAGE };
const raw = { needs: ['private-memory'], lacks: lacksCompiler } as const;

describe('6 attributes', () => {
  pointTest('6.1', raw, () =>
    withKvm((kvm) => {
      const vm = kvm.createVm('sw-protected');
      // The API has no flags to pass, and passes none.
      expect(() => vm.setMemoryAttributes({ ...page, attributes: 0n, flags: 1n } as never)).toThrow(/flags/);
      expect(askKernel('attributes', 'sw-protected').flags).toBe('EINVAL');
    }),
  );

  for (const type of ['default', 'sw-protected'] as const) {
    pointTest('6.2', { needs: ['private-memory'], lacks: lacksCompiler, variant: type }, () =>
      withKvm((kvm) => {
        const vm = kvm.createVm(type);
        const known = type === 'default' ? 0n : PRIVATE;
        const capability = 'KVM_CAP_MEMORY_ATTRIBUTES';
        for (const bit of bits(64)) {
          const set = () => vm.setMemoryAttributes({ ...page, attributes: bit, allowUnbacked: true });
          if (bit === known) expect(outcome(set)).toBe('success');
          else expect(set).toThrow(expect.objectContaining({ name: 'KvmUnsupportedError', capability }));
        }
        const privateBit = type === 'default' ? 'EINVAL' : 'success';
        expect(askKernel('attributes', type)).toMatchObject({ private: privateBit, otherBits: 'EINVAL' });
      }),
    );
  }

  const without = { variant: 'a kernel without attributes', lacks: lacksCompiler ?? attributesHere() };
  pointTest('6.2', without, () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      const set = (attributes: bigint) => () => vm.setMemoryAttributes({ ...page, attributes, allowUnbacked: true });
      expect(set(PRIVATE)).toThrow(KvmUnsupportedError);
      expect(outcome(set(0n))).toBe('ENOTTY');
      expect(askKernel('attributes')).toMatchObject({ none: 'ENOTTY', private: 'ENOTTY' });
    }),
  );

  pointTest('6.3', { needs: ['private-memory'] }, () =>
    withKvm((kvm) => {
      const vm = kvm.createVm();
      expect(outcome(() => vm.setMemoryAttributes({ ...page, attributes: 0n, allowUnbacked: true }))).toBe('success');
    }),
  );

  pointTest('6.4', raw, () =>
    withKvm((kvm) => {
      const vm = kvm.createVm('sw-protected');
      for (const [address, size] of [
        [AREA_GPA, 0],
        [AREA_GPA, 2n ** 64n - 4096n],
        [AREA_GPA + 1n, PAGE],
        [AREA_GPA, PAGE + 1],
      ] as const) {
        expect(() => vm.setMemoryAttributes({ address, size, attributes: 0n, allowUnbacked: true })).toThrow(
          RangeError,
        );
      }
      expect(askKernel('attributes', 'sw-protected')).toMatchObject({
        noSize: 'EINVAL',
        wrap: 'EINVAL',
        oddAddress: 'EINVAL',
        oddSize: 'EINVAL',
      });
    }),
  );

  pointTest('6.5', { needs: ['private-memory'] }, () =>
    withGuest(
      (vm) => {
        vm.setMemoryAttributes({ address: AREA_GPA, size: 2 * PAGE, attributes: PRIVATE, allowUnbacked: true });
        return new RawArea(vm, { size: 3 * PAGE });
      },
      async (guest, area) => {
        const [before, after] = [
          { gpa: AREA_GPA, size: 2 * PAGE },
          { gpa: AREA_GPA + 8192n, size: PAGE },
        ];
        area.fillShared({ gpa: AREA_GPA, size: 3 * PAGE }, 0x11);
        await guest.run(compare(before, 0), fill(before, 0x77), compare(after, 0x11));
        area.expectShared({ gpa: AREA_GPA, size: 3 * PAGE }, 0x11);
      },
    ),
  );

  pointTest('6.6', () =>
    withKvm((kvm) => {
      const here = kvm.vmTypes().filter((type) => type === 'default' || type === 'sw-protected');
      const both = Object.fromEntries(
        here.map((type) => {
          const vm = kvm.createVm(type);
          return [type, [vm.checkExtension('KVM_CAP_MEMORY_ATTRIBUTES'), vm.checkExtension('KVM_CAP_GUEST_MEMFD')]];
        }),
      );
      const system = [kvm.checkExtension('KVM_CAP_MEMORY_ATTRIBUTES'), kvm.checkExtension('KVM_CAP_GUEST_MEMFD')];
      const bindsOnDefault = Number(kernelIs(6, 18));
      const protectedToo = here.length === 2 ? { 'sw-protected': [Number(PRIVATE), 1] } : {};
      expect(both).toEqual({ default: [0, bindsOnDefault], ...protectedToo });
      expect(system).toEqual(here.length === 2 ? [Number(PRIVATE), 1] : [0, 1]);
      // Made all the same, whatever the VM says about it.
      const guestMemfd = kvm.createVm().createGuestMemfd(PAGE);
      expect(guestMemfd.size).toBe(BigInt(PAGE));
      if (bindsOnDefault === 1) kernelDiffers('6.6', 'a default VM reports guest_memfd too');
      if (system[0] === 0) kernelDiffers('6.6', 'the system reports no attributes: no VM type has private memory');
    }),
  );

  pointTest('6.6', { variant: 'as the doctor tells it' }, () =>
    withKvm((kvm) => {
      const {
        checks,
        host: { kernel, cpu, backend },
      } = examineHost();
      // The report of a run says by this where it was.
      const test = TestRunner.getCurrentTest();
      if (test !== undefined) test.meta.machine = { kernel, cpu, backend };
      const answer = (id: string) => checks.find((check) => check.id === id)?.answer;
      const types = kvm.vmTypes();
      for (const type of ['default', 'sw-protected'] as const) {
        expect(answer(`vm-type.${type}`)).toBe(types.includes(type) ? 'yes' : 'no');
      }
    }),
  );

  pointTest('6.7', { needs: ['private-memory'] }, () =>
    withKvm((kvm) => {
      const vm = kvm.createVm('sw-protected');
      const memory = new GuestMemory(vm);
      memory.add({ gpa: AREA_GPA, size: 4 * PAGE, private: true });
      // Nothing of this reaches the kernel, which would give all its memory for the entries.
      for (const [address, size] of [
        [0n, 2 ** 52 - PAGE],
        [AREA_GPA, 2 ** 40],
        [AREA_GPA, 5 * PAGE],
        [AREA_GPA - 4096n, 2 * PAGE],
      ] as const) {
        expect(() => vm.setMemoryAttributes({ address, size, attributes: PRIVATE })).toThrow(RangeError);
        expect(() => memory.convert({ gpa: address, size, to: 'private' })).toThrow(RangeError);
        const exit = {
          reason: 'hypercall',
          nr: 12,
          args: [address, BigInt(size / PAGE), 16n, 0n, 0n, 0n],
          flags: 1n,
          longMode: true,
          ret: new BigInt64Array(1),
        } as const;
        expect(memory.handleHypercall(exit)).toEqual({ ret: -22n });
        expect(exit.ret[0]).toBe(-22n);
      }
      expect(memory.account().private.bytes).toBe(0);
      memory.close();
    }),
  );

  pointTest('6.8', { needs: ['private-memory', 'KVM_CAP_PRE_FAULT_MEMORY'] }, () =>
    withGuest(
      (vm) => {
        vm.setMemoryAttributes({ ...page, attributes: PRIVATE, allowUnbacked: true });
        return new RawArea(vm, { size: PAGE, gpa: AREA_GPA + 0x10_0000n });
      },
      ({ vcpu }) => {
        const at = (gpa: bigint) => outcome(() => vcpu.preFaultMemory({ gpa, size: PAGE }));
        expect([at(AREA_GPA), at(AREA_GPA + 4096n)]).toEqual(['EFAULT', 'ENOENT']);
      },
    ),
  );

  const onePage = (vm: Vm): RawArea => new RawArea(vm, { size: PAGE });

  pointTest('6.9', { needs: ['private-memory'] }, () =>
    withGuest(onePage, async (guest, area, vm) => {
      const range = { gpa: AREA_GPA, size: PAGE };
      await area.convert(guest, range, 'private', false);
      await guest.run(fill(range, 0x77), compare(range, 0x77));
      area.slots[0]!.guestMemfd.close();
      expect(vm.memslots.has(10)).toBe(true);
      guest.write([compare(range, 0x77)]);
      expect(await guest.vcpu.run({ timeoutMs: 30_000 })).toMatchObject({
        reason: 'memory-fault',
        errno: 'EFAULT',
        flags: PRIVATE,
        private: true,
        gpa: AREA_GPA,
        size: 4096n,
      });
    }),
  );

  pointTest('6.10', { needs: ['private-memory'] }, () =>
    withGuest(onePage, async (guest, area) => {
      const range = { gpa: AREA_GPA, size: PAGE };
      await area.convert(guest, range, 'private', false);
      await guest.run(fill(range, 0x77), compare(range, 0x77));
      area.expectShared(range, 0);
    }),
  );

  pointTest('6.11', () =>
    withKvm((kvm) => {
      const offered = kvm.vmTypes();
      const absent = [...VM_TYPE_NAMES.filter((type) => !offered.includes(type)), 6, 7, 31, 0xffff_ffff];
      for (const type of absent) {
        expect(() => kvm.createVm(type)).toThrow(
          expect.objectContaining({
            name: 'KvmUnsupportedError',
            capability: 'KVM_CAP_VM_TYPES',
            cause: expect.objectContaining({ code: 'EINVAL' }),
          }),
        );
      }
    }),
  );
});

/** Why there is no kernel without attributes here, if so. */
function attributesHere(): string | undefined {
  try {
    using kvm = Kvm.open();
    return kvm.checkExtension('KVM_CAP_MEMORY_ATTRIBUTES') === 0 ? undefined : 'a kernel without memory attributes';
  } catch {
    return undefined;
  }
}

/** A sw-protected VM with memory and one guest. */
async function withGuest(
  open: (vm: Vm) => RawArea,
  use: (guest: Guest, area: RawArea, vm: Vm) => void | Promise<void>,
): Promise<void> {
  await withKvm(async (kvm) => {
    const vm = kvm.createVm('sw-protected');
    vm.enableExitHypercall();
    const area = open(vm);
    try {
      writeGuest(area.low);
      await use(new Guest(vm, 0, area.low, { handlers: area.handlers }), area, vm);
    } finally {
      vm.close();
      area.close();
    }
  });
}
