import { describe, expect } from 'vitest';
import { refuseMsr } from '../../lib/kvm/index.ts';
import { expectExit, HLT, realMode } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

const SYSENTER_CS = 0x174;
const SYSENTER_ESP = 0x175;
const SYSENTER_EIP = 0x176;
const UNKNOWN = 0xdead_0000;
const RDMSR = [0x0f, 0x32];
const WRMSR = [0x0f, 0x30];

describe('MSRs', () => {
  kvmTest('are written and read back, in the order asked for', () => {
    const { vcpu } = realMode([HLT]);
    vcpu.setMsrs([
      { index: SYSENTER_EIP, data: 0x1234n },
      { index: SYSENTER_CS, data: 0x8n },
    ]);
    expect(vcpu.getMsrs([SYSENTER_CS, SYSENTER_EIP])).toEqual([
      { index: SYSENTER_CS, data: 0x8n },
      { index: SYSENTER_EIP, data: 0x1234n },
    ]);
    expect(vcpu.getMsr(SYSENTER_EIP)).toBe(0x1234n);
    expect(vcpu.getMsrs([])).toEqual([]);
    vcpu.setMsrs([]);
  });

  kvmTest('may be more than the kernel takes at once', () => {
    const { vcpu } = realMode([HLT]);
    const entries = Array.from({ length: 600 }, (_, index) => ({ index: SYSENTER_ESP, data: BigInt(index) }));
    vcpu.setMsrs(entries);
    const read = vcpu.getMsrs(entries.map(({ index }) => index));
    expect(read.length).toBe(600);
    expect(read[599]).toEqual({ index: SYSENTER_ESP, data: 599n });
  });

  kvmTest('that KVM refuses are named', () => {
    const { vcpu } = realMode([HLT]);
    expect(() => vcpu.getMsrs([SYSENTER_CS, UNKNOWN])).toThrow(
      expect.objectContaining({
        name: 'KvmSystemError',
        code: 'EINVAL',
        syscall: 'KVM_GET_MSRS',
        message: expect.stringMatching(/0xdead0000 \(position 1\)/),
      }),
    );
    const many = Array.from({ length: 300 }, () => SYSENTER_CS);
    expect(() => vcpu.getMsrs([...many, UNKNOWN])).toThrow(/position 300/);
    expect(() =>
      vcpu.setMsrs([
        { index: SYSENTER_CS, data: 1n },
        { index: UNKNOWN, data: 0n },
      ]),
    ).toThrow(/KVM_SET_MSRS/);
    expect(vcpu.getMsr(SYSENTER_CS)).toBe(1n);
  });

  kvmTest('refuse bad arguments', () => {
    const { vcpu } = realMode([HLT]);
    expect(() => vcpu.getMsrs(1 as never)).toThrow(TypeError);
    expect(() => vcpu.getMsrs([-1])).toThrow(RangeError);
    expect(() => vcpu.setMsrs([{ index: SYSENTER_CS, data: 1 as never }])).toThrow(/write 1n/);
  });
});

describe('MSR exits', () => {
  const readingUnknown = () =>
    realMode([...RDMSR, HLT], {
      regs: { rcx: BigInt(UNKNOWN) },
      prepare: (vm) => vm.enableUserSpaceMsr(3n),
    });

  kvmTest('answer a read', { needs: ['KVM_CAP_X86_USER_SPACE_MSR'] }, () => {
    const { vcpu } = readingUnknown();
    const exit = expectExit(vcpu.runSync(), 'rdmsr');
    expect(exit.index).toBe(UNKNOWN);
    expect(exit.error[0]).toBe(0);
    exit.data[0] = 0x1122_3344_5566_7788n;
    expect(vcpu.getRegs()).toMatchObject({ rip: 0x1002n, rax: 0x5566_7788n, rdx: 0x1122_3344n });
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('give what is written', { needs: ['KVM_CAP_X86_USER_SPACE_MSR'] }, () => {
    const { vcpu } = realMode([...WRMSR, HLT], {
      regs: { rcx: BigInt(UNKNOWN), rax: 0xaaaa_bbbbn, rdx: 0x1111_2222n },
      prepare: (vm) => vm.enableUserSpaceMsr(3n),
    });
    const exit = expectExit(vcpu.runSync(), 'wrmsr');
    expect(exit).toMatchObject({ index: UNKNOWN });
    expect(exit.data[0]).toBe(0x1111_2222_aaaa_bbbbn);
    expectExit(vcpu.runSync(), 'hlt');
  });

  kvmTest('raise #GP when refused', { needs: ['KVM_CAP_X86_USER_SPACE_MSR'] }, () => {
    const { vcpu, memory } = readingUnknown();
    vcpu.updateRegs({ rsp: 0x8000n });
    // Vector 13 of the real-mode table: 0000:2000, where the handler executes out 0x13, al.
    memory.set([0x00, 0x20, 0, 0], 13 * 4);
    memory.set([0xe6, 0x13, HLT], 0x2000);
    refuseMsr(expectExit(vcpu.runSync(), 'rdmsr'));
    expect(expectExit(vcpu.runSync(), 'io').port).toBe(0x13);
  });
});
