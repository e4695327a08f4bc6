/** Section 7, as far as it needs no guest that runs encrypted: the types, INIT2, moves and mirrors that are refused. */
import { describe, expect } from 'vitest';
import type { Kvm } from '../../lib/index.ts';
import type { Vm, VmTypeName } from '../../lib/index.ts';
import { KVM_X86_GRP_SEV, KVM_X86_SEV_VMSA_FEATURES } from '../../lib/abi/index.ts';
import { withKvm } from '../kvm/support.ts';
import { bits, kernelDiffers, outcome, outcomes, pointTest } from './support.ts';

const INIT2 = 22;
const SEV_TYPES = ['sev', 'sev-es', 'snp'] as const satisfies readonly VmTypeName[];
/** Bits of CPUID 0x8000001f EAX. */
const CPUID_BIT = { sev: 1, 'sev-es': 3, snp: 4 } as const;

interface Init2 {
  readonly vmsaFeatures?: bigint;
  readonly flags?: number;
}

/** KVM_SEV_INIT2 with struct kvm_sev_init. */
function init2(vm: Vm, { vmsaFeatures = 0n, flags = 0 }: Init2 = {}): void {
  const command = new Uint8Array(24);
  new DataView(command.buffer).setUint32(0, INIT2, true);
  const data = new Uint8Array(48);
  const view = new DataView(data.buffer);
  view.setBigUint64(0, vmsaFeatures, true);
  view.setUint32(8, flags, true);
  vm.memoryEncryptOp({ command, data });
}

const vmsaFeatures = (kvm: Kvm): bigint => {
  const data = new Uint8Array(8);
  kvm.getDeviceAttr(KVM_X86_GRP_SEV, BigInt(KVM_X86_SEV_VMSA_FEATURES), data);
  return new DataView(data.buffer).getBigUint64(0, true);
};

/** A new VM for each try, since INIT2 works once. */
const refusals = (kvm: Kvm, type: VmTypeName, tries: readonly Init2[]): Record<string, number> =>
  outcomes(tries, (one) => {
    using vm = kvm.createVm(type);
    init2(vm, one);
  });

describe('7 SEV', () => {
  pointTest('7.1', { needs: ['KVM_CAP_SYS_ATTRIBUTES'] }, () =>
    withKvm((kvm) => {
      const has = kvm.hasDeviceAttr(KVM_X86_GRP_SEV, BigInt(KVM_X86_SEV_VMSA_FEATURES));
      expect(outcome(() => vmsaFeatures(kvm))).toBe(has ? 'success' : 'ENXIO');
    }),
  );

  pointTest('7.2', () =>
    withKvm((kvm) => {
      const eax = kvm.getSupportedCpuid().find((entry) => entry.function === 0x8000_001f)?.eax ?? 0;
      const types = kvm.vmTypes();
      const known = SEV_TYPES.filter((type) => ((eax >>> CPUID_BIT[type]) & 1) === 1);
      expect(SEV_TYPES.filter((type) => types.includes(type))).toEqual(known);
    }),
  );

  for (const type of SEV_TYPES) {
    const options = { needs: [`vm-type:${type}`], variant: type } as const;
    pointTest('7.3', options, () => withKvm((kvm) => expect(refusals(kvm, type, [{}])).toEqual({ success: 1 })));
    pointTest('7.5', options, () =>
      withKvm((kvm) => {
        expect(
          refusals(
            kvm,
            type,
            [...bits(32)].map((bit) => ({ flags: Number(bit) })),
          ),
        ).toEqual({ EINVAL: 32 });
      }),
    );
    pointTest('7.6', { ...options, needs: [...options.needs, 'KVM_CAP_SYS_ATTRIBUTES'] }, () =>
      withKvm((kvm) => {
        const known = type === 'sev' ? 0n : vmsaFeatures(kvm);
        const unknown = [...bits(64)].filter((bit) => (bit & known) === 0n);
        expect(
          refusals(
            kvm,
            type,
            unknown.map((bit) => ({ vmsaFeatures: bit })),
          ),
        ).toEqual({ EINVAL: unknown.length });
      }),
    );
  }

  for (const type of ['default', 'sw-protected'] as const) {
    const needs = type === 'default' ? [] : (['private-memory'] as const);
    pointTest('7.4', { needs, variant: type }, () =>
      withKvm((kvm) => {
        // Without SEV the kernel does not know the call at all.
        const answer = kvm.vmTypes().includes('sev') ? 'EINVAL' : 'ENOTTY';
        expect(refusals(kvm, type, [{}])).toEqual({ [answer]: 1 });
        if (answer === 'ENOTTY') kernelDiffers('7.4', 'ENOTTY where SEV is not switched on');
      }),
    );

    pointTest('7.15', { needs, variant: `from a ${type} VM` }, () =>
      withKvm((kvm) => {
        const [source, target] = [kvm.createVm(type), kvm.createVm(type)];
        expect(outcome(() => target.moveEncContextFrom(source))).toBe('EINVAL');
      }),
    );

    pointTest('7.18', { needs, variant: `from a ${type} VM` }, () =>
      withKvm((kvm) => {
        const [source, target] = [kvm.createVm(type), kvm.createVm(type)];
        expect(outcome(() => target.copyEncContextFrom(source))).toBe('EINVAL');
        // Onto itself: refused by name; and by the kernel, asked without the name.
        expect(() => target.copyEncContextFrom(target)).toThrow(/another VM/);
        expect(outcome(() => target.enableCap('KVM_CAP_VM_COPY_ENC_CONTEXT_FROM', [BigInt(target.fd)]))).toBe('EINVAL');
        target.createVcpu(0);
        expect(outcome(() => target.copyEncContextFrom(source))).toBe('EINVAL');
      }),
    );
  }
});
