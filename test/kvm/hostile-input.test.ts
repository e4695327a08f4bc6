/** What no type checker lets through: each a sentence that names the argument, and nothing open or changed by it. */
import { expect } from 'vitest';
import type { Vm } from '../../lib/kvm/index.ts';
import {
  Eventfd,
  HostFile,
  HostMapping,
  Kvm,
  Vcpu,
  accessValue,
  answerHypercall,
  answerMsr,
  answerRead,
  lapicRegister,
  refuseMsr,
} from '../../lib/kvm/index.ts';
import { GuestMemory } from '../../lib/memory/index.ts';
import { native } from '../../lib/native.ts';
import { createVm } from '../../lib/tier/index.ts';
import { kvmTest } from './support.ts';

interface Scene {
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly vcpu: Vcpu;
  readonly memory: GuestMemory;
}

const BARE: unknown = Object.create(null);
const SYMBOL: unknown = Symbol('x');
const PROXY: unknown = Proxy.revocable({}, {}).proxy;
const REVOKED: unknown = (() => {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
})();

/** Every value here comes in as `any` would. */
const CASES: Readonly<
  Record<string, readonly [use: (scene: Scene, value: never) => unknown, values: readonly unknown[], name: string]>
> = {
  'kvm.checkExtension': [({ kvm }, value) => kvm.checkExtension(value), [BARE, SYMBOL, REVOKED, null], 'capability'],
  'vm.checkExtension': [
    ({ vm }, value) => vm.checkExtension(value),
    [BARE, SYMBOL, REVOKED, '__proto__'],
    'capability',
  ],
  'kvm.getDeviceAttr': [({ kvm }, value) => kvm.getDeviceAttr(value, 0n, new Uint8Array(8)), [BARE, SYMBOL], 'group'],
  'HostFile.open': [(_, value) => HostFile.open(value), [BARE, SYMBOL, 3, undefined], 'path'],
  'Vcpu.adopt': [
    ({ vm }, id) => Vcpu.adopt({ kind: 'node-kvm:vcpu', id, token: 1n }, vm),
    [BARE, SYMBOL, -1],
    'token.id',
  ],
  'vm.enableCap': [
    ({ vm }, value) => vm.enableCap('KVM_CAP_EXCEPTION_PAYLOAD', [value]),
    [null, undefined, 1],
    'args[0]',
  ],
  'vm.disableQuirks': [({ vm }, value) => vm.disableQuirks(value), [undefined, null, 1], 'args[0]'],
  'vcpu.enableCap': [({ vcpu }, value) => vcpu.enableCap(value), ['toString', BARE, undefined], 'capability'],
  'vcpu.memoryEncryptOp': [({ vcpu }, value) => vcpu.memoryEncryptOp(value), [undefined, {}], 'command'],
  'vcpu.setGuestDebug': [({ vcpu }, value) => vcpu.setGuestDebug(value), [undefined, null, []], 'options'],
  'vcpu.updateRegs': [({ vcpu }, value) => vcpu.updateRegs(value), [new Date(), [], new Map()], 'regs'],
  'vm.signalMsi': [({ vm }, value) => vm.signalMsi(value), [undefined, {}], 'address'],
  'vm.irqfd': [({ vm }, eventfd) => vm.irqfd({ eventfd, gsi: 1 }), [Object.create(Eventfd.prototype)], 'eventfd'],
  'HostMapping.file': [(_, value) => HostMapping.file(value), [Object.create(HostFile.prototype), PROXY], 'file'],
  'mapping.write': [
    (_, value) => HostMapping.anonymous(4096).write(0, value),
    [Object.create(Uint8Array.prototype)],
    'from',
  ],
  createVm: [(_, value) => createVm(value), [null, Object.create(Kvm.prototype), new Map()], 'options'],
  'new GuestMemory': [(_, value) => new GuestMemory(value), [null, undefined, 'vm', {}], 'vm'],
  'memory.remove': [
    ({ memory }, keepGuestMemfd) => memory.remove(memory.regions[0]!, { keepGuestMemfd }),
    [1, null, 'no'],
    'keepGuestMemfd',
  ],
  'memory.readCString': [({ memory }, value) => memory.readCString(0n, value), [null, 7, { maxLenght: 1 }], 'options'],
  'memory.handleHypercall': [({ memory }, value) => memory.handleHypercall(value), [null, undefined, {}], 'exit'],
  'memory.handleMemoryFault': [
    ({ memory }, value) => memory.handleMemoryFault(value),
    [null, undefined, { gpa: 0 }],
    'exit',
  ],
  'memory.prefault': [
    ({ memory }, value) => memory.prefault({ gpa: 0n, size: 4096, vcpus: [value] }),
    [null, undefined, 3],
    'vcpus[0]',
  ],
  'memory.prefault, signal': [
    ({ memory, vcpu }, signal) => memory.prefault({ gpa: 0n, size: 4096, vcpus: [vcpu], signal }),
    [null, {}, 1],
    'signal',
  ],
  'memory.convertAsync': [
    ({ memory }, prefault) => memory.convertAsync({ gpa: 0n, size: 4096, to: 'shared', prefault }),
    [null, {}, 1],
    'prefault',
  ],
  accessValue: [(_, value) => accessValue(value), [null, undefined, {}], 'exit'],
  answerRead: [(_, value) => answerRead(value, 1), [null, undefined, {}], 'exit'],
  answerHypercall: [(_, value) => answerHypercall(value), [null, undefined, {}], 'exit'],
  answerMsr: [(_, value) => answerMsr(value, 1n), [null, undefined, {}], 'exit'],
  refuseMsr: [(_, value) => refuseMsr(value), [null, undefined, {}], 'exit'],
  lapicRegister: [(_, value) => lapicRegister(value, 0x20), [null, undefined, new Uint8Array(8)], 'page'],
};

kvmTest('a closed GuestMemory or VM says that it is closed', () => {
  using kvm = Kvm.open();
  const vm = kvm.createVm();
  vm.createVcpu(0);
  const memory = new GuestMemory(vm);
  memory.add({ gpa: 0n, size: 4096 });
  memory.close();
  vm.close();
  for (const use of [
    () => memory.readU8(0n),
    () => memory.write(0n, Uint8Array.of(1)),
    () => memory.view(0n, 1),
    () => memory.readCString(0n),
    () => vm.enableSplitIrqchip(),
    () => vm.disablePmu(),
    () => vm.setTscKhz(1),
  ])
    expect(use).toThrow(expect.objectContaining({ code: 'ERR_KVM_CLOSED' }) as Error);
});

for (const [what, [use, values, name]] of Object.entries(CASES)) {
  kvmTest(`${what} says what is wrong with ${name}`, async () => {
    using kvm = Kvm.open();
    const vm = kvm.createVm();
    const scene: Scene = { kvm, vm, vcpu: vm.createVcpu(0), memory: new GuestMemory(vm) };
    scene.memory.add({ gpa: 0n, size: 65536 });
    for (const value of values) {
      const { files, threads } = native().census();
      const error: unknown = await (async () => use(scene, value as never))().then(
        () => 'nothing thrown',
        (reason: unknown) => reason,
      );
      expect(error).toSatisfy((thrown) => thrown instanceof TypeError || thrown instanceof RangeError);
      const { message } = error as Error;
      expect(message).toMatch(/^Expected /);
      expect(message).toContain(name);
      expect(native().census()).toMatchObject({ files, threads });
      expect(scene.memory.regions).toHaveLength(1);
    }
  });
}
