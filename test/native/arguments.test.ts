// Nothing that JavaScript passes may crash the process or let the kernel write outside of a buffer.
import { describe, expect, test } from 'vitest';
import { native } from '../../lib/native.ts';
import { hasKvm, makeGuest, OUT_HLT } from './guest.ts';

const KVM_SET_SIGNAL_MASK = 0x4004ae8b;
const KVM_GET_MSRS = 0xc008ae88;
const KVM_SET_CPUID2 = 0x4008ae90;
const KVM_GET_SUPPORTED_CPUID = 0xc008ae05;
const KVM_GET_MSR_INDEX_LIST = 0xc004ae02;
const KVM_SET_GSI_ROUTING = 0x4008ae6a;
const KVM_ENABLE_CAP = 0x4068aea3;

function counted(count: number, length: number, at = 0): Uint8Array {
  const bytes = new Uint8Array(length);
  new DataView(bytes.buffer).setUint32(at, count, true);
  return bytes;
}

describe.skipIf(!hasKvm)('arguments (need /dev/kvm)', () => {
  test('requests that are unknown, of another object, or that have a method', () => {
    const { vm, vcpu, system, close } = makeGuest(OUT_HLT);
    expect(() => system.ioctl(0x1234)).toThrow(TypeError);
    expect(() => system.ioctl(0x8090ae81, new Uint8Array(144))).toThrow(/not a request of a System/);
    expect(() => vm.ioctl(0x4020ae46, new Uint8Array(32))).toThrow(/use setUserMemoryRegion\(\)/);
    expect(() => vcpu.ioctl(0xae80)).toThrow(/use runSync\(\)/);
    for (const bad of ['x', {}, null, undefined, 1.5, -1, 2 ** 33, 1n, NaN])
      expect(() => system.ioctl(bad as never)).toThrow();
    close();
  });

  test('buffers that are too short', () => {
    const { vm, vcpu, system, close } = makeGuest(OUT_HLT);
    const short = (call: () => void) => expect(call).toThrow(RangeError);
    short(() => vcpu.ioctl(0x8090ae81, new Uint8Array(143)));
    short(() => system.ioctl(KVM_GET_SUPPORTED_CPUID, counted(256, 256 * 40 + 7)));
    short(() => system.ioctl(KVM_GET_SUPPORTED_CPUID, counted(0xffffffff, 48)));
    short(() => system.ioctl(KVM_GET_MSR_INDEX_LIST, counted(2, 11)));
    short(() => vcpu.ioctl(KVM_GET_MSRS, counted(1, 23)));
    short(() => vcpu.ioctl(KVM_SET_CPUID2, counted(1, 47)));
    short(() => vm.ioctl(KVM_SET_GSI_ROUTING, counted(1, 55)));
    short(() => vcpu.ioctl(0xc080aebe, counted(4096, 128, 4)));
    short(() => vcpu.ioctl(KVM_SET_SIGNAL_MASK, counted(8, 11)));
    short(() => vcpu.ioctl(KVM_SET_SIGNAL_MASK, counted(16, 20)));
    short(() => vm.ioctl(0x4020aeb2, counted(1, 39, 4)));
    expect(() => vcpu.ioctl(0x8090ae81)).toThrow(TypeError);
    expect(() => vcpu.ioctl(0x8090ae81, new Uint16Array(144) as never)).toThrow(TypeError);
    close();
  });

  test('a struct of variable length fills its buffer', () => {
    const { system, vcpu, close } = makeGuest(OUT_HLT);
    const cpuid = counted(256, 8 + 256 * 40);
    system.ioctl(KVM_GET_SUPPORTED_CPUID, cpuid);
    const count = new DataView(cpuid.buffer).getUint32(0, true);
    expect(count).toBeGreaterThan(1);
    vcpu.ioctl(KVM_SET_CPUID2, cpuid);
    expect(() => system.ioctl(KVM_GET_MSR_INDEX_LIST, counted(0, 4))).toThrow(
      expect.objectContaining({
        code: 'E2BIG',
        syscall: 'KVM_GET_MSR_INDEX_LIST',
      }),
    );
    const list = counted(0, 4);
    try {
      system.ioctl(KVM_GET_MSR_INDEX_LIST, list);
    } catch {
      /* says how many */
    }
    expect(new DataView(list.buffer).getUint32(0, true)).toBeGreaterThan(1);
    // Shared memory is copied first, so its count cannot change under the kernel.
    const shared = new Uint8Array(new SharedArrayBuffer(8 + 256 * 40));
    shared.set(counted(256, 8));
    system.ioctl(KVM_GET_SUPPORTED_CPUID, shared);
    expect(new DataView(shared.buffer).getUint32(0, true)).toBe(count);
    close();
  });

  test('the kick gets through a signal mask that blocks everything', () => {
    const guest = makeGuest([0xeb, 0xfe]);
    const mask = counted(8, 12);
    mask.fill(0xff, 4);
    guest.vcpu.ioctl(KVM_SET_SIGNAL_MASK, mask);
    expect(guest.vcpu.runSync(50)).toBe(-4);
    guest.vcpu.ioctl(KVM_SET_SIGNAL_MASK);
    guest.close();
  });

  test('objects of other classes, of other addons and of nobody', () => {
    const { vm, vcpu, memory, close } = makeGuest(OUT_HLT);
    const foreign = [{}, vcpu, vm, Object.create(memory), new Proxy(memory, {}), 1, 'x', () => {}, new Map(), [memory]];
    for (const object of foreign) {
      expect(() => vm.setUserMemoryRegion(1, 1, 0, 0x100000n, 0x1000n, object as never, 0n, null, 0n)).toThrow(
        TypeError,
      );
      expect(() => native().mapFile(object as never, 0n, 0x1000n, true, true)).toThrow(TypeError);
    }
    const prototypes = [vm, vcpu, memory].map((handle) => Object.getPrototypeOf(handle) as Record<string, unknown>);
    for (const prototype of prototypes) {
      for (const [name, { get, value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
        if (name === 'constructor') expect(() => new (value as new () => object)()).toThrow(TypeError);
        for (const receiver of [{}, undefined, prototype, native().createEventfd(0, false)]) {
          const call = (get ?? value) as (this: unknown) => unknown;
          if (name !== 'constructor') expect(() => call.call(receiver)).toThrow(TypeError);
        }
      }
    }
    close();
  });

  test('wrong types and values at every position', () => {
    const guest = makeGuest(OUT_HLT);
    const { vm, vcpu, memory, system } = guest;
    const nonsense = [
      undefined,
      null,
      1,
      -1,
      1.5,
      1n,
      -1n,
      2n ** 70n,
      '',
      {},
      [],
      Symbol('x'),
      new Uint8Array(0),
      true,
    ];
    const skipped = new Set([
      'close',
      'constructor',
      'runSync',
      'startRun',
      'completePending',
      'onComplete',
      'poll',
      'token',
    ]);
    for (const handle of [
      system,
      vm,
      vcpu,
      memory,
      native().createEventfd(0, false),
      native().createMemfd('x', 0, true),
    ]) {
      const prototype = Object.getPrototypeOf(handle) as Record<string, (...rest: unknown[]) => unknown>;
      for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
        if (typeof value !== 'function' || skipped.has(name)) continue;
        for (const a of nonsense) {
          for (const b of nonsense) {
            try {
              const made = (handle as never as typeof prototype)[name]!(a, b, a, b, a, b, a, b, a) as
                { close?(): void; catch?(caught: () => void): void } | undefined;
              made?.close?.();
              made?.catch?.(() => {});
            } catch (error) {
              expect(error).toBeInstanceOf(Error);
            }
          }
        }
      }
    }
    guest.close();
  });

  test('getters that close what they are asked of', () => {
    const guest = makeGuest(OUT_HLT);
    const range = {
      flags: 1,
      base: 0,
      count: 64,
      get bitmap() {
        guest.vm.close();
        return new Uint8Array(8);
      },
    };
    expect(() => guest.vm.setMsrFilter(0, [range])).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }));
    guest.close();
    const other = makeGuest(OUT_HLT);
    const pointer = {
      at: 0,
      get target() {
        other.vm.close();
        return new Uint8Array(8);
      },
    };
    expect(() => other.vm.memoryEncryptOp(new Uint8Array(24), 8, new Uint8Array(8), [pointer])).toThrow();
    other.close();
  });

  test('device attributes, registers and extended state are as long as they are', () => {
    const { vcpu, system, vm, close } = makeGuest(OUT_HLT);
    const mask = new Uint8Array(8);
    system.getDeviceAttr(0, 0n, mask);
    expect(() => system.getDeviceAttr(0, 0n, new Uint8Array(4))).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(() => system.getDeviceAttr(0, 0n, new Uint8Array(65537))).toThrow(RangeError);
    expect(system.hasDeviceAttr(0, 0n)).toBe(true);
    expect(system.hasDeviceAttr(77, 0n)).toBe(false);
    const xsave = vcpu.getXsave();
    expect(xsave.length).toBeGreaterThanOrEqual(4096);
    vcpu.setXsave(xsave);
    expect(() => vcpu.setXsave(xsave.subarray(1))).toThrow(RangeError);
    expect(() => vcpu.getOneReg(0x2030000200000010n, new Uint8Array(7))).toThrow(RangeError);
    expect(() => vcpu.mapDirtyRing(4096)).toThrow(RangeError);
    const stats = vm.getStatsFd();
    expect(stats.read(0, new Uint8Array(24))).toBe(24);
    stats.close();
    const cap = counted(163, 104);
    new DataView(cap.buffer).setBigUint64(8, 1n, true);
    try {
      vcpu.ioctl(KVM_ENABLE_CAP, cap);
    } catch (error) {
      expect(error).toMatchObject({ syscall: 'KVM_ENABLE_CAP' });
    }
    expect(new DataView(cap.buffer).getBigUint64(8, true)).toBeLessThan(0x10000n);
    close();
  });
});

test('the layout that the addon was compiled with', () => {
  const { sizes, offsets, constants } = native().layout;
  expect([sizes['kvm_run'], sizes['kvm_cpuid2'], sizes['kvm_userspace_memory_region2']]).toEqual([2352, 8, 160]);
  expect([offsets['kvm_regs.rip'], offsets['kvm_run.memory_fault.gpa'], offsets['kvm_run.io.port']]).toEqual([
    128, 40, 34,
  ]);
  expect([constants['KVM_GET_REGS'], constants['KVM_PRE_FAULT_MEMORY']]).toEqual([0x8090ae81n, 0xc040aed5n]);
});
