/** Points 3.15 and 3.16: a guest_memfd that outlives its VM. */
import { describe, expect } from 'vitest';
import { withKvm } from '../kvm/support.ts';
import { AREA_GPA, RawArea } from './guest-area.ts';
import { writeGuest } from './guest-code.ts';
import { askKernel, lacksCompiler } from './guest-kernel.ts';
import { fill, Guest } from './guest-vcpu.ts';
import { outcome, PAGE, pointTest } from './support.ts';

const SIZE = 4 * PAGE;

describe('3 conversions: lifetime', () => {
  // The API closes the guest_memfds of a VM with the VM: no file of it can be left behind.
  for (const [id, what] of [
    ['3.15', 'punch'],
    ['3.16', 'allocate'],
  ] as const) {
    pointTest(id, { needs: ['KVM_CAP_GUEST_MEMFD'], variant: 'the kernel', lacks: lacksCompiler }, () => {
      expect(askKernel('lifetime')).toMatchObject({ [what]: 'success', close: 'success' });
    });

    pointTest(id, { needs: ['private-memory'], variant: 'the VM going last' }, () =>
      withKvm(async (kvm) => {
        const vm = kvm.createVm('sw-protected');
        vm.enableExitHypercall();
        const area = new RawArea(vm, { size: SIZE });
        writeGuest(area.low);
        const guest = new Guest(vm, 0, area.low, { handlers: area.handlers });
        await area.convert(guest, { gpa: AREA_GPA, size: SIZE }, 'private', true);
        await guest.run(fill({ gpa: AREA_GPA, size: SIZE }, 0x11));
        const { guestMemfd } = area.slots[0]!;
        guest.vcpu.close();
        vm.deleteMemslot(10);
        expect(outcome(() => guestMemfd.punchHole(0, SIZE))).toBe('success');
        if (what === 'allocate') expect(outcome(() => guestMemfd.fallocate(0, SIZE))).toBe('success');
        vm.close();
        expect(guestMemfd.closed).toBe(true);
        expect(outcome(() => guestMemfd.punchHole(0, SIZE))).toBe('ERR_KVM_CLOSED');
        area.close();
      }),
    );
  }
});
