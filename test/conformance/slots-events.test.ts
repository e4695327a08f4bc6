/** An event whose delivery needs memory that is not there. */
import { describe, expect } from 'vitest';
import { HostMapping, Kvm } from '../../lib/index.ts';
import type { VcpuExit } from '../../lib/index.ts';
import { LOW_SIZE, writeGuest } from './guest-code.ts';
import { describeExit, Guest } from './guest-vcpu.ts';
import { backend, kernelDiffers, kernelIs, once, pointTest } from './support.ts';

const CODE = 0xa000n;
/** mov al, [rax]: with an address that is not canonical, #GP. */
const BYTES = [0x8a, 0x00];
const NOT_CANONICAL = 1n << 63n;
/** Mapped by the guest, and in no slot. */
const TABLE = 0x2000_0000n;
const GP = 13n;
const GATE_BYTES = 16n;

function play(): VcpuExit {
  using kvm = Kvm.open();
  const vm = kvm.createVm();
  using low = HostMapping.anonymous(LOW_SIZE);
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: LOW_SIZE, mapping: low });
  const bytes = low.view();
  writeGuest(bytes);
  bytes.set(BYTES, Number(CODE));
  const { vcpu } = new Guest(vm, 0, bytes);
  vcpu.updateSregs({ idt: { base: TABLE, limit: 0xfff } });
  vcpu.updateRegs({ rip: CODE, rax: NOT_CANONICAL });
  return vcpu.runSync({ timeoutMs: 20_000 });
}

describe('an interrupt table without a slot', () => {
  const played = once(play);

  pointTest('2.30', () => {
    const exit = played();
    // A KVM that delivers events itself finds the next fault, and the next, as a processor does.
    if (backend === 'none') {
      expect(exit).toEqual({ reason: 'shutdown' });
      return kernelDiffers('2.30', 'the vCPU shuts down');
    }
    if (backend === 'svm' && !kernelIs(6, 14)) {
      expect(exit).toEqual({ reason: 'interrupted', cause: 'timeout' });
      return kernelDiffers('2.30', 'the vCPU never gets anywhere, and never exits');
    }
    if (exit.reason !== 'internal-error') return expect(describeExit(exit)).toBe('internal-error');
    expect(exit.suberror).toBe('delivery-event');
    return expect(exit.data).toContain(TABLE + GP * GATE_BYTES);
  });
});
