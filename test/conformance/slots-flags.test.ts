/** No slot at all, and the flags of slots. */
import { describe, expect } from 'vitest';
import { KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY } from '../../lib/abi/index.ts';
import { HostMapping, Kvm } from '../../lib/index.ts';
import type { Vm } from '../../lib/index.ts';
import { nativeOf } from '../../lib/kvm/handle.ts';
import { backend, bits, kernelDiffers, outcome, outcomes, pointTest, tally, TWO_MIB } from './support.ts';
import { INIT_SHARED, MMAP, TYPES, withVm } from './support-guest-memfd.ts';

const GPA = 0xc000_0000n;
const SIZE = TWO_MIB;
const PRIVATE = 8;

pointTest('2.1', { variant: 'a quota of 64 shadow pages' }, () => {
  using kvm = Kvm.open();
  const vm = kvm.createVm();
  vm.setNrMmuPages(64);
  expect(vm.createVcpu(0).runSync({ timeoutMs: 60_000 }).reason).toBe('internal-error');
});

// Without any slot the kernel's own quota is 0, so that a KVM which has to shadow the guest's page tables cannot begin.
pointTest('2.1', { variant: 'no quota of shadow pages' }, () => {
  using kvm = Kvm.open();
  const vcpu = kvm.createVm().createVcpu(0);
  if (backend !== 'none') return expect(vcpu.runSync({ timeoutMs: 60_000 }).reason).toBe('internal-error');
  expect(outcome(() => vcpu.runSync({ timeoutMs: 60_000 }))).toBe('ENOSPC');
  return kernelDiffers('2.1', 'without slots there are no shadow pages, and the run fails with ENOSPC');
});

/** All the flags there are room for, but some. */
const without = (known: number): number[] => [...bits(32)].map(Number).filter((flag) => (flag & known) === 0);

/** A slot with flags as they are, by the addon: the methods take only those that mean something. */
const setRaw = (vm: Vm, version: 1 | 2, flags: number, mapping: HostMapping): string =>
  outcome(() => {
    nativeOf(vm).setUserMemoryRegion(version, 10, flags, GPA, BigInt(SIZE), nativeOf(mapping), 0n, null, 0n);
  });

/** What the second call takes on a VM, apart from what the first takes as well. */
const privateFlag = (vm: Vm): number =>
  (vm.checkExtension('KVM_CAP_MEMORY_ATTRIBUTES') & PRIVATE) === 0 ? 0 : KVM_MEM_GUEST_MEMFD;

for (const { variant, type, needs } of TYPES) {
  const options = { variant, needs };
  const withMapping = (use: (vm: Vm, mapping: HostMapping) => void): void =>
    withVm(type, (vm) => {
      using mapping = HostMapping.anonymous(SIZE);
      use(vm, mapping);
    });

  describe(`flags on a ${variant}`, () => {
    pointTest('2.2', options, () =>
      withMapping((vm, mapping) => {
        const refused = without(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY);
        expect(refused).toContain(KVM_MEM_GUEST_MEMFD);
        expect(tally(refused.map((flags) => setRaw(vm, 1, flags, mapping)))).toEqual({ EINVAL: 30 });
        const answers = outcomes(refused, (flags) => {
          vm.setUserMemoryRegion({ slot: 10, gpa: GPA, size: SIZE, mapping, flags });
        });
        expect(answers).toEqual({ RangeError: 29, TypeError: 1 });
        expect(vm.memslots.size).toBe(0);
        vm.setUserMemoryRegion({ slot: 10, gpa: GPA, size: SIZE, mapping });
      }),
    );

    pointTest('2.3', options, () =>
      withMapping((vm, mapping) => {
        const refused = without(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY | privateFlag(vm));
        expect(refused.length).toBeGreaterThanOrEqual(29);
        const answers = refused.map((flags) => `${flags}: ${setRaw(vm, 2, flags, mapping)}`);
        const wanted = refused.map((flags) => `${flags}: ${isGuestMemfd(vm, flags) ? 'EBADF' : 'EINVAL'}`);
        expect(answers).toEqual(wanted);
        expect(vm.memslots.size).toBe(0);
        vm.setUserMemoryRegion2({ slot: 10, gpa: GPA, size: SIZE, mapping });
      }),
    );
  });
}

/** A kernel that binds a guest_memfd to a VM without memory attributes knows the flag, and misses the descriptor. */
function isGuestMemfd(vm: Vm, flags: number): boolean {
  return flags === KVM_MEM_GUEST_MEMFD && vm.checkExtension('KVM_CAP_GUEST_MEMFD') !== 0;
}

describe('dirty logging of a slot with a guest_memfd', () => {
  for (const { variant, type, flags, needs } of [
    { variant: 'sw-protected VM', type: 'sw-protected', flags: 0n, needs: ['private-memory'] },
    { variant: 'default VM', type: 'default', flags: MMAP | INIT_SHARED, needs: ['mapped-guest-memfd'] },
  ] as const) {
    pointTest('2.4', { variant, needs }, () =>
      withVm(type, (vm) => {
        using mapping = HostMapping.anonymous(SIZE);
        const guestMemfd = vm.createGuestMemfd(SIZE, { flags });
        const region = { slot: 10, gpa: GPA, size: SIZE, guestMemfd, ...(flags === 0n ? { mapping } : {}) };
        const logged = { ...region, flags: KVM_MEM_LOG_DIRTY_PAGES };
        expect(outcome(() => vm.setUserMemoryRegion2(logged))).toBe('ERR_KVM_UNSUPPORTED');
        expect(
          outcome(() =>
            nativeOf(vm).setUserMemoryRegion(
              2,
              10,
              KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_GUEST_MEMFD,
              GPA,
              BigInt(SIZE),
              flags === 0n ? nativeOf(mapping) : null,
              0n,
              nativeOf(guestMemfd),
              0n,
            ),
          ),
        ).toBe('EINVAL');
        vm.setUserMemoryRegion2(region);
      }),
    );
  }
});
