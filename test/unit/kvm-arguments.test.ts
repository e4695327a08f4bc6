/** What the handles check before anything reaches the kernel, as far as that needs no KVM. */
import { describe, expect, it } from 'vitest';
import { CAPS } from '../../lib/abi/index.ts';
import { hintFor } from '../../lib/kvm/errno-hints.ts';
import { Kvm, Vm, capNumber, vmTypeName, vmTypeNumber } from '../../lib/kvm/index.ts';
import { copyRoutes, encodeRoutes } from '../../lib/kvm/vm/routes.ts';

describe('capabilities', () => {
  it('go by name or number; unknown numbers are passed on, unknown names are not', () => {
    expect(capNumber('KVM_CAP_GUEST_MEMFD')).toBe(234);
    expect(capNumber(4000)).toBe(4000);
    expect(() => capNumber('KVM_CAP_GUEST_MEMFDS' as never)).toThrow(TypeError);
    expect(() => capNumber('__proto__' as never)).toThrow(TypeError);
    expect(() => capNumber(-1)).toThrow(RangeError);
    expect(() => capNumber(1n as never)).toThrow(TypeError);
    expect(new Set(Object.values(CAPS)).size).toBe(Object.keys(CAPS).length);
  });
});

describe('VM types', () => {
  it('go by name or number', () => {
    for (const [name, number] of [
      ['default', 0],
      ['sw-protected', 1],
      ['sev', 2],
      ['sev-es', 3],
      ['snp', 4],
      ['tdx', 5],
    ] as const) {
      expect([vmTypeNumber(name), vmTypeName(number)]).toEqual([number, name]);
    }
    expect([vmTypeNumber(77), vmTypeName(77)]).toEqual([77, 'unknown']);
    expect(() => vmTypeNumber('sw-protect' as never)).toThrow(/did you mean 'sw-protected'|Expected one of/);
    expect(() => vmTypeNumber(1n as never)).toThrow(TypeError);
    expect(() => vmTypeNumber(-1)).toThrow(RangeError);
  });
});

describe('the likely cause of a failed call', () => {
  const failed = (syscall: unknown, code: unknown): unknown => Object.assign(new Error('x'), { syscall, code });

  it('depends on the call and the errno', () => {
    expect(hintFor(failed('KVM_SIGNAL_MSI', 'EPERM'))).toMatch(/no vCPU took the interrupt/);
    expect(hintFor(failed('KVM_SIGNAL_MSI', 'EINVAL'))).toMatch(/interrupt controller/);
    expect(hintFor(failed('KVM_SET_MEMORY_ATTRIBUTES', 'ENOMEM'))).toMatch(/nothing was changed/);
  });

  it('is a general one where the call has none of its own', () => {
    expect(hintFor(failed('KVM_GET_CLOCK', 'EIO'))).toMatch(/the VM is dead/);
    expect(hintFor(failed('KVM_CREATE_VM', 'EMFILE'))).toMatch(/ulimit -n/);
    expect(hintFor(failed('memfd_create', 'ENOMEM'))).toMatch(/out of memory/);
  });

  it('is none where nothing is known', () => {
    expect(hintFor(failed('KVM_GET_CLOCK', 'EDOM'))).toBeUndefined();
    expect(hintFor(failed('pread', 'EIO'))).toBeUndefined();
    expect(hintFor(failed('constructor', 'name'))).toBeUndefined();
    expect(hintFor(failed('KVM_CREATE_VM', 'toString'))).toBeUndefined();
    expect(hintFor(failed(undefined, 'EIO'))).toBeUndefined();
    expect(hintFor(new Error('x'))).toBeUndefined();
  });
});

describe('routes', () => {
  it('are refused with the place of the mistake', () => {
    const route = { gsi: 0, type: 'irqchip', chip: 'pic-master', pin: 0 } as const;
    expect(encodeRoutes([])).toHaveLength(8);
    expect(encodeRoutes([route, { ...route, chip: 'ioapic' }])).toHaveLength(8 + 2 * 48);
    expect(() => encodeRoutes([route, route])).toThrow(RangeError);
    expect(() => encodeRoutes([{ ...route, pin: 8 }])).toThrow(RangeError);
    expect(() => encodeRoutes([{ ...route, chip: 'ioapic', pin: 24 }])).toThrow(RangeError);
    expect(() => encodeRoutes([{ ...route, chip: 'apic' as never }])).toThrow(RangeError);
    expect(() => encodeRoutes([{ ...route, gsi: 4096 }])).toThrow(RangeError);
    expect(() => encodeRoutes([{ gsi: 0, type: 'msi', address: 5 as never, data: 0 }])).toThrow(TypeError);
    expect(() => encodeRoutes([null as never])).toThrow(TypeError);
    expect(() => encodeRoutes('x' as never)).toThrow(TypeError);
  });

  it('are kept as they were set', () => {
    const route = { gsi: 3, type: 'msi', address: 0xfee0_0000n, data: 0x41 } as const;
    const mine = { ...route };
    const kept = copyRoutes([mine]);
    Object.assign(mine, { gsi: 9 });
    expect(kept).toEqual([route]);
    expect(Object.isFrozen(kept)).toBe(true);
  });
});

describe('handles', () => {
  it('are made from what they say, and not by hand', () => {
    for (const path of [undefined as never, null, {}, true, 3n]) {
      if (path !== undefined) expect(() => Kvm.open(path as never)).toThrow(TypeError);
    }
    for (const token of [undefined, null, 'x', {}, { kind: 'node-kvm:vcpu' }]) {
      expect(() => Vm.adopt(token as never)).toThrow(/a token made by vm\.share\(\)/);
    }
  });
});
