/** What the fuzzers found, each as the call that went wrong. */
import { expect } from 'vitest';
import * as lib from '../../lib/index.ts';
import { machine } from '../kvm/memory-guest.ts';
import { kvmTest, withKvm } from '../kvm/support.ts';

/** Something that no type checker lets through. */
const any = (value: unknown): never => value as never;

function detached(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  return bytes;
}

const sentence = (name: string): object =>
  expect.objectContaining({ message: expect.stringMatching(new RegExp(`^Expected .* for ${name}`)) });

const PAGE = 4096;
const RDMSR = { reason: 'rdmsr', index: 0, cause: 'filter', causeBits: 0 };

kvmTest('an offset that is no number, where the length follows from it, is named', () => {
  using mapping = lib.HostMapping.anonymous(PAGE);
  using file = lib.HostFile.memfd(PAGE);
  for (const offset of [1n, -1n, {}, detached(8), Object(4096n)]) {
    expect(() => mapping.view(any(offset))).toThrow(sentence('offset'));
    expect(() => mapping.resident(any(offset))).toThrow(sentence('offset'));
    expect(() => file.map({ offset: any(offset) })).toThrow(sentence('options.offset'));
  }
  expect(() => mapping.fill(0, any(undefined), 1)).toThrow(sentence('length'));
  expect(() => mapping.read(PAGE, 2 ** 32 - PAGE)).toThrow(sentence('length'));
});

kvmTest('a number that is nearly 0 is no multiple of 4096, and a string of digits no number', () =>
  withKvm(async (kvm) => {
    const vm = kvm.createVm();
    const memory = new lib.GuestMemory(vm);
    memory.add({ gpa: 0n, size: PAGE });
    using mapping = lib.HostMapping.anonymous(2 * PAGE);
    for (const value of [Number.MIN_VALUE, String(PAGE), [PAGE]]) {
      expect(() => mapping.madvise(any(value), PAGE, 'dontneed')).toThrow(sentence('offset'));
      expect(() => mapping.madvise(0, any(value), 'dontneed')).toThrow(sentence('length'));
      await expect(mapping.madviseAsync(any(value), PAGE, 'dontneed')).rejects.toThrow(sentence('offset'));
      expect(() => memory.attributes.ranges(0n, any(value))).toThrow(sentence('size'));
    }
  }),
);

kvmTest('a ring of what is no vCPU is refused by name', () =>
  withKvm((kvm) => {
    using eventfd = lib.Eventfd.create();
    const vm = kvm.createVm();
    for (const vcpu of [undefined, null, () => 0, new Uint8Array(8), eventfd, vm, Object.create(lib.Vcpu.prototype)]) {
      expect(() => new lib.CoalescedRing(any(vcpu))).toThrow(sentence('vcpu'));
      expect(() => new lib.DirtyRing(any(vcpu), PAGE)).toThrow(sentence('vcpu'));
    }
  }),
);

kvmTest('a vCPU is adopted for a VM and nothing else, and nothing stays when it is refused', () =>
  withKvm((kvm) => {
    const token = kvm.createVm().createVcpu(0).share();
    using eventfd = lib.Eventfd.create();
    for (const vm of [eventfd, kvm, new Proxy(kvm, {}), Object.create(lib.Vm.prototype)]) {
      expect(() => lib.Vcpu.adopt(token, any(vm))).toThrow(sentence('vm'));
    }
  }),
);

kvmTest('exits that no vCPU made are refused by name', () => {
  for (const data of [undefined, null, false, 1n, 'x', new Uint8Array(8)]) {
    expect(() => lib.answerMsr(any({ ...RDMSR, data, error: new Uint8Array(1) }), 1n)).toThrow(sentence('exit.data'));
  }
  expect(() => lib.answerMsr(any({ ...RDMSR, data: new BigUint64Array(1) }), 1n)).toThrow(sentence('exit.error'));
  expect(() => lib.refuseMsr(any(RDMSR))).toThrow(sentence('exit.error'));
  expect(() => lib.answerHypercall(any({ reason: 'hypercall' }))).toThrow(sentence('exit.ret'));
  expect(() => lib.accessValue(any({ reason: 'io', direction: 'in', size: 1 }))).toThrow(sentence('exit.data'));
  expect(() => lib.copyExit(any({ view: new DataView(new ArrayBuffer(8)) }))).toThrow(sentence('exit'));
});

kvmTest('a hypercall that no vCPU made is refused by name', () =>
  withKvm((kvm) => {
    const memory = new lib.GuestMemory(kvm.createVm());
    memory.add({ gpa: 0n, size: PAGE });
    const [nr, args, ret] = [12, [0n, 1n, 0n], new BigInt64Array(1)];
    expect(() => memory.handleHypercall(any({ nr, ret }))).toThrow(sentence('exit.args'));
    expect(() => memory.handleHypercall(any({ nr, args }))).toThrow(sentence('exit.ret'));
    for (const bad of [Symbol('x'), 0, '0']) {
      expect(() => memory.handleHypercall(any({ nr, args: [bad, 1n, 0n], ret }))).toThrow(sentence('exit.args\\[0\\]'));
    }
    expect(() => lib.wrapSystemError(new Error('x'), any(null))).not.toThrow();
  }),
);

kvmTest('bytes that were handed to somebody else are refused by name', () =>
  withKvm((kvm) => {
    const vm = kvm.createVm();
    expect(() => vm.setGsiRouting([{ gsi: 1, type: 3, u: detached(8) }])).toThrow(sentence('routes\\[0\\].u'));
    using mapping = lib.HostMapping.anonymous(PAGE);
    expect(() => mapping.write(0, detached(8))).toThrow(sentence('from'));
    mapping.write(0, new Uint8Array(0));
  }),
);

kvmTest('what should never be is shown, whatever it is', () => {
  for (const value of [Symbol('x'), detached(8), new BigInt64Array(1), Object.create(null)]) {
    expect(() => lib.assertNever(any(value), any(value))).toThrow(
      expect.objectContaining({ code: 'ERR_KVM_UNEXPECTED' }) as Error,
    );
  }
});

kvmTest(
  'where the guest found nothing, private memory is out of its reach until it was shared there',
  { needs: ['private-memory'] },
  () => {
    const { memory, vcpu, run, poke } = machine({ type: 'sw-protected' });
    const gpa = 0xa000n;
    memory.remove(memory.regions[0]!);
    memory.add({ gpa: 0n, size: 8 * PAGE });
    const store = [0xc6, 0x06, 0x00, 0xa0, 0x11, 0xf4]; // mov byte [0xa000], 0x11; hlt
    expect(run(store)).toMatchObject({ reason: 'mmio', gpa });
    vcpu.completePendingIo();
    memory.add({ gpa, size: PAGE, private: true, attributes: 'private' });
    // The processor still has the entry for MMIO, and KVM (Linux 6.12) takes what faults by it for a shared access.
    for (let turn = 0; turn < 2; turn++)
      expect(run(store)).toMatchObject({ reason: 'memory-fault', gpa, private: false });
    memory.convert({ gpa, size: PAGE, to: 'shared' });
    poke(gpa, 0x22);
    memory.convert({ gpa, size: PAGE, to: 'private' });
    expect(run(store)).toMatchObject({ reason: 'hlt' });
  },
);
