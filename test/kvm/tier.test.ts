import { describe, expect, it } from 'vitest';
import { KvmUnsupportedError } from '../../lib/errors.ts';
import { HostMapping, Kvm } from '../../lib/kvm/index.ts';
import { native } from '../../lib/native.ts';
import { createVm, Host, isAtLeast, TIERS, tryTier } from '../../lib/tier/index.ts';
import { candidateTiers } from '../../lib/tier/create-vm.ts';

const inLab = (process.env['NODE_KVM_REQUIRE'] ?? '').split(',').includes('lab');
const PAGE = 4096;

describe('createVm', () => {
  it('says which tier it took and why not each stronger one', () => {
    const vm = createVm();
    try {
      const tier = vm.tier;
      expect(vm.fallback.map((refusal) => refusal.tier)).toEqual(TIERS.slice(0, TIERS.indexOf(tier)));
      for (const { reason, evidence, remedy } of vm.fallback) {
        expect(reason).not.toBe('');
        expect(evidence).toMatch(/KVM_|mmap/);
        expect(remedy.length).toBeGreaterThan(10);
      }
      if (inLab) expect(tier).toBe('sw-protected');
    } finally {
      vm.kvm.close();
    }
  });

  it('closes with the VM the system handle that it opened, and no other', () => {
    const before = native().census();
    const vm = createVm();
    const { kvm } = vm;
    vm.close();
    expect(kvm.closed).toBe(true);
    using given = Kvm.open();
    createVm({ kvm: given }).close();
    expect(given.closed).toBe(false);
    given.close();
    expect(native().census()).toEqual(before);
  });

  it('gives an empty VM: what was tried is undone', () => {
    using kvm = Kvm.open();
    using vm = createVm({ kvm });
    expect(vm.memslots.size).toBe(0);
    using mapping = HostMapping.anonymous(PAGE);
    mapping.write(0, Uint8Array.of(0xf4));
    vm.setUserMemoryRegion2({ slot: 0, gpa: 0n, size: PAGE, mapping });
    // The probe made this page private and back: the guest must see the shared side.
    using vcpu = vm.createVcpu(0);
    const sregs = vcpu.getSregs();
    vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
    vcpu.updateRegs({ rip: 0n, rflags: 2n });
    expect(vcpu.runSync({ timeoutMs: 5000 }).reason).toBe('hlt');
  });

  it('makes exactly the type that it is asked for', () => {
    using kvm = Kvm.open();
    using vm = createVm({ kvm, type: 'default', guestMemfd: 'none' });
    expect([vm.tier, vm.typeName, vm.fallback]).toEqual(['default', 'default', []]);
  });

  it('takes a minimum that the host has', () => {
    using kvm = Kvm.open();
    using strongest = createVm({ kvm });
    using vm = createVm({ kvm, minimum: strongest.tier });
    expect(vm.tier).toBe(strongest.tier);
    expect(isAtLeast(vm.tier, 'default')).toBe(true);
  });

  it('gives an error and no weaker VM below a minimum, and leaves nothing open', () => {
    const before = native().census();
    expect(() => createVm({ minimum: 'sev' })).toThrow(KvmUnsupportedError);
    // A line for each tier.
    expect(() => createVm({ minimum: 'sev' })).toThrow(
      /^.*tdx, snp, sev-es, sev:\n {2}tdx: .*\n {2}snp: .*\n {2}sev-es: .*\n {2}sev: .*Needed: .*$/,
    );
    expect(native().census()).toEqual(before);
  });

  it.skipIf(inLab)(
    'explains what a host without sw-protected needs (needs a host without that VM type)',
    ({ skip }) => {
      using kvm = Kvm.open();
      if (kvm.vmTypes().includes('sw-protected')) skip('this host makes sw-protected VMs');
      expect(() => createVm({ kvm, type: 'sw-protected' })).toThrow(/KVM_CAP_VM_TYPES = 0x1.*lab/);
    },
  );

  it('passes errors on that say nothing about the host', () => {
    const kvm = Kvm.open();
    kvm.close();
    expect(() => createVm({ kvm })).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }) as Error);
  });

  it('leaves nothing open behind each tier that it tries', () => {
    using kvm = Kvm.open();
    const before = native().census();
    for (const tier of TIERS) tryTier(kvm, tier, new Host()).vm?.close();
    expect(native().census()).toEqual(before);
  });
});

describe('bad options', () => {
  it.each([
    [{ type: 'sw-protectd' }, RangeError, "did you mean 'sw-protected'"],
    [{ type: 3 }, TypeError, "Expected one of 'auto'"],
    [{ minimum: 'none' }, RangeError, 'options.minimum'],
    [{ guestMemfd: true }, TypeError, 'options.guestMemfd'],
    [{ minimal: 'default' }, TypeError, 'minimum'],
    [{ type: 'default', minimum: 'sw-protected' }, RangeError, "a tier that type 'default' can reach"],
    [{ type: 'sw-protected', guestMemfd: 'mapped' }, RangeError, 'options.guestMemfd'],
    [{ kvm: {} }, TypeError, 'a Kvm'],
  ] as const)('%j', (options, type, message) => {
    expect(() => createVm(options as never)).toThrow(type);
    expect(() => createVm(options as never)).toThrow(message);
  });

  it('leave the tiers that they allow', () => {
    expect(candidateTiers({})).toEqual(TIERS);
    expect(candidateTiers({ minimum: 'sw-protected' })).toEqual(TIERS.slice(0, 5));
    expect(candidateTiers({ type: 'default', guestMemfd: 'mapped' })).toEqual(['default-mapped-guest-memfd']);
  });
});
