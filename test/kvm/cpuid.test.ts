import { describe, expect } from 'vitest';
import { HLT, realMode } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

/** cpuid */
const CPUID = [0x0f, 0xa2];
const LEAF = 0x4000_0100;

describe('CPUID', () => {
  kvmTest('is set before the first run, and read back', () => {
    const { kvm, vcpu } = realMode([HLT]);
    const supported = kvm.getSupportedCpuid();
    vcpu.setCpuid2(supported);
    const read = vcpu.getCpuid2();
    expect(read.length).toBe(supported.length);
    expect(read.map(({ function: leaf, index }) => [leaf, index])).toEqual(
      supported.map(({ function: leaf, index }) => [leaf, index]),
    );
  });

  kvmTest('is read back whatever its length', () => {
    const { vcpu } = realMode([HLT]);
    const table = Array.from({ length: 200 }, (_, index) => ({
      function: 0x5000_0000 + index,
      index: 0,
      flags: 0,
      eax: index,
      ebx: 1,
      ecx: 2,
      edx: 3,
    }));
    vcpu.setCpuid2(table);
    expect(vcpu.getCpuid2()).toEqual(table);
    vcpu.setCpuid2([]);
    expect(vcpu.getCpuid2()).toEqual([]);
  });

  kvmTest('is what the guest sees', () => {
    const { kvm, vcpu } = realMode([...CPUID, HLT], { regs: { rax: BigInt(LEAF) } });
    const registers = { eax: 0x1111_1111, ebx: 0x2222_2222, ecx: 0x3333_3333, edx: 0xf444_4444 };
    const mine = { function: LEAF, index: 0, flags: 0, ...registers };
    vcpu.setCpuid2([...kvm.getSupportedCpuid(), mine]);
    expect(vcpu.runSync().reason).toBe('hlt');
    expect(vcpu.getRegs()).toMatchObject({
      rax: 0x1111_1111n,
      rbx: 0x2222_2222n,
      rcx: 0x3333_3333n,
      rdx: 0xf444_4444n,
    });
  });

  kvmTest('has at most 256 entries', () => {
    const { vcpu } = realMode([HLT]);
    const entry = { function: 1, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 };
    expect(() => vcpu.setCpuid2(new Array(257).fill(entry))).toThrow(
      expect.objectContaining({ code: 'E2BIG', message: expect.stringMatching(/256 entries/) }),
    );
  });

  kvmTest('cannot be another one after the first run', () => {
    const { kvm, vcpu } = realMode([HLT, HLT]);
    const supported = kvm.getSupportedCpuid();
    vcpu.setCpuid2(supported);
    vcpu.runSync();
    expect(() => vcpu.setCpuid2(supported.slice(0, 3))).toThrow(
      expect.objectContaining({ code: 'EINVAL', message: expect.stringMatching(/has run already/) }),
    );
  });

  kvmTest('refuses values that do not fit', () => {
    const { vcpu } = realMode([HLT]);
    const entry = { function: 1, index: 0, flags: 0, eax: 2 ** 32, ebx: 0, ecx: 0, edx: 0 };
    expect(() => vcpu.setCpuid2([entry])).toThrow(RangeError);
    expect(() => vcpu.setCpuid2([{ ...entry, eax: 0n as never }])).toThrow(TypeError);
  });

  kvmTest('of Hyper-V can be asked for', { needs: ['KVM_CAP_HYPERV_CPUID'] }, () => {
    const { vcpu } = realMode([HLT]);
    expect(vcpu.getSupportedHvCpuid()[0]).toMatchObject({ function: 0x4000_0000 });
  });
});
