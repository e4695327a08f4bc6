/** Doorbells: writes of the guest that signal an eventfd instead of exiting. */
import { describe, expect, onTestFinished } from 'vitest';
import { Eventfd } from '../../lib/kvm/eventfd.ts';
import type { IoeventfdAssignment } from '../../lib/kvm/vm/events.ts';
import { expectExit, HLT, MMIO, OUT, realMode } from './vcpu-guest.ts';
import { kvmTest, withKvm } from './support.ts';

const NEEDS = { needs: ['KVM_CAP_IOEVENTFD'] } as const;

function eventfd(): Eventfd {
  const made = Eventfd.create();
  onTestFinished(() => made.close());
  return made;
}

/** mov al, value; out 0x10, al */
const outByte = (value: number): number[] => [0xb0, value, ...OUT];
/** mov [0x40], al, with DS at MMIO */
const STORE_AL = [0xa2, 0x40, 0x00];
/** mov [0x40], ax */
const STORE_AX = [0xa3, 0x40, 0x00];

describe('at a port', () => {
  kvmTest('takes the write, and the guest goes on', NEEDS, async () => {
    const { vm, vcpu } = realMode([...outByte(1), ...outByte(2), HLT]);
    const fd = eventfd();
    vm.ioeventfd({ eventfd: fd, address: 0x10n, length: 1, pio: true });
    const waiting = fd.wait();
    expectExit(await vcpu.run(), 'hlt');
    // One or both: it depends on when the counter was read.
    const first = await waiting;
    expect(first + (fd.read() ?? 0n)).toBe(2n);
  });

  kvmTest('takes only the value it is for', NEEDS, async () => {
    const { vm, vcpu } = realMode([...outByte(7), ...outByte(8), HLT]);
    const fd = eventfd();
    const doorbell: IoeventfdAssignment = { eventfd: fd, address: 0x10n, length: 1, pio: true, datamatch: 7n };
    vm.ioeventfd(doorbell);
    expect([...expectExit(await vcpu.run(), 'io').data]).toEqual([8]);
    expect(fd.read()).toBe(1n);
    vm.ioeventfdDeassign(doorbell);
    expectExit(await vcpu.run(), 'hlt');
  });

  kvmTest('is over when it is deassigned', NEEDS, async () => {
    const { vm, vcpu } = realMode([...outByte(1), HLT]);
    const fd = eventfd();
    vm.ioeventfd({ eventfd: fd, address: 0x10n, length: 1, pio: true });
    vm.ioeventfdDeassign({ eventfd: fd, address: 0x10n, length: 1, pio: true });
    expectExit(await vcpu.run(), 'io');
    expect(fd.read()).toBeUndefined();
  });
});

describe('in memory', () => {
  kvmTest('takes writes of its width, and others exit', NEEDS, async () => {
    const { vm, vcpu } = realMode([...STORE_AX, ...STORE_AL, HLT], { mmio: true, regs: { rax: 0x1234n } });
    const fd = eventfd();
    vm.ioeventfd({ eventfd: fd, address: MMIO + 0x40n, length: 2 });
    expect(expectExit(await vcpu.run(), 'mmio')).toMatchObject({ direction: 'write', gpa: MMIO + 0x40n });
    expect(fd.read()).toBe(1n);
    expectExit(await vcpu.run(), 'hlt');
  });

  kvmTest('takes writes of any width', { needs: ['KVM_CAP_IOEVENTFD_ANY_LENGTH'] }, async () => {
    const { vm, vcpu } = realMode([...STORE_AX, ...STORE_AL, HLT], { mmio: true });
    const fd = eventfd();
    vm.ioeventfd({ eventfd: fd, address: MMIO + 0x40n });
    expectExit(await vcpu.run(), 'hlt');
    expect(fd.read()).toBe(2n);
  });
});

kvmTest('there is one for each address, width and value', NEEDS, () =>
  withKvm((kvm) => {
    const vm = kvm.createVm();
    const fd = eventfd();
    const doorbell = { eventfd: fd, address: MMIO, length: 4, datamatch: 1n } as const;
    vm.ioeventfd(doorbell);
    vm.ioeventfd({ ...doorbell, datamatch: 2n });
    expect(() => vm.ioeventfd(doorbell)).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    expect(() => vm.ioeventfdDeassign({ ...doorbell, datamatch: 3n })).toThrow(
      expect.objectContaining({
        code: 'ENOENT',
        syscall: 'KVM_IOEVENTFD',
        hint: expect.stringMatching(/same eventfd, address, length, pio and datamatch/),
      }),
    );
    expect(() => vm.ioeventfdDeassign({ ...doorbell, eventfd: eventfd() })).toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
    vm.ioeventfdDeassign(doorbell);
    vm.ioeventfd(doorbell);
  }),
);

kvmTest('refuses what the kernel would not take', NEEDS, () =>
  withKvm((kvm) => {
    const vm = kvm.createVm();
    const fd = eventfd();
    const given = { eventfd: fd, address: MMIO } as const;
    expect(() => vm.ioeventfd({ ...given, datamatch: 1n })).toThrow(/no datamatch where length is 0/);
    expect(() => vm.ioeventfd({ ...given, length: 3 } as never)).toThrow(
      /^Expected 0, 1, 2, 4 or 8 for length but received 3/,
    );
    expect(() => vm.ioeventfd({ ...given, length: 1, datamatch: 0x100n })).toThrow(/a value of 1 bytes for datamatch/);
    expect(() => vm.ioeventfd({ ...given, length: 8, datamatch: 1n << 64n })).toThrow(RangeError);
    expect(() => vm.ioeventfd({ ...given, address: 0x1_0000n, pio: true })).toThrow(/a port below 65536/);
    expect(() => vm.ioeventfd({ ...given, address: 0xffffn, length: 2, pio: true })).toThrow(
      /at most 1 bytes from port 65535/,
    );
    expect(() => vm.ioeventfd({ ...given, address: 16 } as never)).toThrow(/a bigint for address.*write 16n/);
    expect(() => vm.ioeventfd({ ...given, eventfd: 5 } as never)).toThrow(/an Eventfd for eventfd/);
    expect(() => vm.ioeventfd({ ...given, match: 1n } as never)).toThrow(/Expected no key match/);
    fd.close();
    expect(() => vm.ioeventfd(given)).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
  }),
);
