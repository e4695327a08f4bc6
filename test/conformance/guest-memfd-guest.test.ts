/** A guest_memfd that the host maps, as a guest's memory at 4 GiB. */
import { describe, expect } from 'vitest';
import { KVM_MEM_GUEST_MEMFD } from '../../lib/abi/index.ts';
import { HostMapping, Kvm } from '../../lib/index.ts';
import type { GuestMemfd, Vm } from '../../lib/index.ts';
import { nativeOf } from '../../lib/kvm/handle.ts';
import { LOW_SIZE, writeGuest } from './guest-code.ts';
import { compare, fill, Guest } from './guest-vcpu.ts';
import { backend, GIB, kernelDiffers, once, PAGE, pointTest, tally } from './support.ts';
import { flagsOf, INIT_SHARED, MMAP, withVm } from './support-guest-memfd.ts';

const GPA = 4n * GIB;
const BY_HOST = 0xaa;
const BY_GUEST = 0x55;
const needs = ['mapped-guest-memfd'] as const;

pointTest('1.42', { needs: ['KVM_CAP_GUEST_MEMFD_FLAGS'] }, () =>
  withVm('default', (vm) => {
    expect(flagsOf(vm) & (MMAP | INIT_SHARED)).toBe(MMAP | INIT_SHARED);
  }),
);

type Bind = (vm: Vm, guestMemfd: GuestMemfd) => void;

const bind: Bind = (vm, guestMemfd) => vm.setUserMemoryRegion2({ slot: 1, gpa: GPA, size: PAGE, guestMemfd });

/** The slot's user address is then memory that nobody can touch: node-kvm would give the file's own mapping. */
const bindBare: Bind = (vm, guestMemfd) =>
  nativeOf(vm).setUserMemoryRegion(2, 1, KVM_MEM_GUEST_MEMFD, GPA, 4096n, null, 0n, nativeOf(guestMemfd), 0n);

/** What the guest said, and what the host then found in the file. */
async function play(bindIt: Bind): Promise<{ guest: string; host: Record<string, number> }> {
  using kvm = Kvm.open();
  const vm = kvm.createVm();
  using low = HostMapping.anonymous(LOW_SIZE);
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: LOW_SIZE, mapping: low });
  writeGuest(low.view());
  const file = vm.createGuestMemfd(PAGE, { flags: MMAP | INIT_SHARED });
  bindIt(vm, file);
  {
    using mapping = file.map();
    mapping.fill(0, PAGE, BY_HOST);
  }
  const range = { gpa: GPA, size: PAGE };
  const guest = new Guest(vm, 0, low.view());
  const said = await guest.run(compare(range, BY_HOST), fill(range, BY_GUEST)).then(() => 'done', String);
  using mapping = file.map();
  return { guest: said, host: tally(Array.from(mapping.read(0, PAGE), String)) };
}

describe("with the file's own mapping as user address", () => {
  const played = once(() => play(bind));
  const variant = "the file's mapping beside it";

  pointTest('1.43', { variant, needs }, async () => expect((await played()).guest).toBe('done'));
  pointTest('1.44', { variant, needs }, async () => expect((await played()).host).toEqual({ [BY_GUEST]: PAGE }));
});

describe('without a user address', () => {
  const played = once(() => play(bindBare));
  const variant = 'no user address';
  // A KVM that emulates instructions reads memory for them through the user address.
  const emulated = backend === 'none';

  pointTest('1.43', { variant, needs }, async () => {
    const { guest } = await played();
    if (!emulated) return expect(guest).toBe('done');
    expect(guest).toMatch(/"reason":"mmio","direction":"read","gpa":"0x100000000"/);
    return kernelDiffers('1.43', 'the emulated access is an MMIO exit: it goes by the user address, and there is none');
  });

  pointTest('1.44', { variant, needs }, async () => {
    const { host } = await played();
    expect(host).toEqual({ [emulated ? BY_HOST : BY_GUEST]: PAGE });
    if (emulated) kernelDiffers('1.44', 'the guest wrote nothing: its access was an MMIO exit');
  });
});
