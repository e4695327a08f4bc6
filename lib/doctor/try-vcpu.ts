/** vCPUs, interrupts and dirty tracking, tried with guests of a few bytes in real mode. */
import { Eventfd, HostMapping, type Kvm, type Vcpu, type VcpuExit, type Vm } from '../kvm/index.ts';
import type { Host } from '../tier/host.ts';
import { Shortfall, attempt } from './attempt.ts';
import type { Findings } from './report.ts';

const PAGE = 4096;
const CODE_GPA = 0x1000n;
const PORT = 0x80;
const TIMEOUT_MS = 2000;
/** A backend that emulates loops at the instruction, so this much time is lost there. */
const HYPERCALL_TIMEOUT_MS = 500;
const OLD_KERNEL = 'A newer kernel, or one with this part of KVM built in';

const OUT_AND_HALT = [0xb0, 0x42, 0xe6, PORT, 0xf4]; // mov al, 0x42; out 0x80, al; hlt
/** KVM_HC_MAP_GPA_RANGE (12) of one page at gpa 0, in 32-bit operands. */
// prettier-ignore
const hypercall = (amd: boolean): number[] => [
  0x66, 0xb8, 12, 0, 0, 0, // mov eax, 12
  0x66, 0x31, 0xdb, //        xor ebx, ebx
  0x66, 0xb9, 1, 0, 0, 0, //  mov ecx, 1
  0x66, 0x31, 0xd2, //        xor edx, edx
  0x0f, 0x01, amd ? 0xd9 : 0xc1, // vmmcall or vmcall
  0xf4,
];

interface Machine {
  readonly vm: Vm;
  readonly vcpu: Vcpu;
}

/** A VM with a page of code and a vCPU about to execute it. */
function withGuest<T>(kvm: Kvm, code: readonly number[], prepare: (vm: Vm) => void, use: (machine: Machine) => T): T {
  using vm = kvm.createVm('default');
  using mapping = HostMapping.anonymous(PAGE);
  mapping.write(0, Uint8Array.from(code));
  prepare(vm);
  vm.setUserMemoryRegion({ slot: 0, gpa: CODE_GPA, size: PAGE, mapping });
  const vcpu = vm.createVcpu(0);
  const sregs = vcpu.getSregs();
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
  vcpu.updateRegs({ rip: CODE_GPA, rflags: 2n });
  return use({ vm, vcpu });
}

function expectExit(exit: VcpuExit, reason: VcpuExit['reason']): void {
  if (exit.reason !== reason) throw new Shortfall(`KVM_RUN ended with ${exit.reason} instead of ${reason}`);
}

export function checkVcpu(kvm: Kvm, host: Host, found: Findings): void {
  attempt(found, 'vcpu', 'vcpu.run', 'A vCPU runs', 'See "dmesg | grep -i kvm"', () =>
    withGuest(
      kvm,
      OUT_AND_HALT,
      () => {},
      ({ vcpu }) => {
        expectExit(vcpu.runSync({ timeoutMs: TIMEOUT_MS }), 'io');
        expectExit(vcpu.runSync({ timeoutMs: TIMEOUT_MS }), 'hlt');
        return 'a guest of 5 bytes wrote to a port and halted';
      },
    ),
  );
  attempt(
    found,
    'vcpu',
    'vcpu.exit-hypercall',
    'Hypercalls exit to user space',
    host.backend === 'page-table'
      ? 'A host with VMX or SVM: this backend emulates the instruction again and again'
      : 'A kernel of 5.14 or later',
    () => {
      const amd = ['AuthenticAMD', 'HygonGenuine'].includes(host.cpu.vendor);
      return withGuest(
        kvm,
        hypercall(amd),
        (vm) => vm.enableExitHypercall(),
        ({ vcpu }) => {
          const exit = vcpu.runSync({ timeoutMs: HYPERCALL_TIMEOUT_MS });
          if (exit.reason === 'interrupted')
            throw new Shortfall(`the guest never came past its hypercall, in ${HYPERCALL_TIMEOUT_MS} ms`);
          expectExit(exit, 'hypercall');
          if (exit.reason === 'hypercall') exit.ret[0] = 0n;
          expectExit(vcpu.runSync({ timeoutMs: TIMEOUT_MS }), 'hlt');
          return 'a guest of 21 bytes called KVM_HC_MAP_GPA_RANGE';
        },
      );
    },
  );
}

/** On the strongest VM: the private side where it has one. */
export function checkPreFault(vm: Vm, host: Host, found: Findings): void {
  attempt(
    found,
    'private-memory',
    'pre-fault',
    `KVM_PRE_FAULT_MEMORY, on a ${vm.typeName} VM`,
    'A kernel of 6.11 or later, with two-dimensional paging (kvm_intel.ept=1 or kvm_amd.npt=1)' +
      (host.backend === 'page-table' ? '; this KVM has none, the lab has ("npx node-kvm lab run <command>")' : ''),
    () => {
      using mapping = HostMapping.anonymous(PAGE);
      mapping.write(0, Uint8Array.of(1));
      vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: PAGE, mapping });
      try {
        using vcpu = vm.createVcpu(0);
        const { size } = vcpu.preFaultMemory({ gpa: 0n, size: BigInt(PAGE) });
        if (BigInt(size) !== 0n) throw new Shortfall(`KVM_PRE_FAULT_MEMORY left ${size} bytes`);
        return 'a page mapped';
      } finally {
        vm.deleteMemslot(0);
      }
    },
  );
}

export function checkInterrupts(kvm: Kvm, found: Findings): void {
  const tryOne = (id: string, title: string, action: (vm: Vm) => string): boolean =>
    attempt(found, 'interrupts', id, title, OLD_KERNEL, () => {
      using vm = kvm.createVm('default');
      return action(vm);
    });
  tryOne(
    'interrupts.irqchip',
    'Interrupt controllers in the kernel',
    (vm) => (vm.createIrqchip(), 'KVM_CREATE_IRQCHIP'),
  );
  tryOne(
    'interrupts.split-irqchip',
    'Split irqchip',
    (vm) => (vm.enableSplitIrqchip(24), 'KVM_CAP_SPLIT_IRQCHIP enabled with 24 pins'),
  );
  tryOne('interrupts.irqfd', 'irqfd', (vm) => {
    vm.createIrqchip();
    using eventfd = Eventfd.create();
    vm.irqfd({ eventfd, gsi: 5 });
    vm.irqfdDeassign({ eventfd, gsi: 5 });
    return 'assigned and deassigned';
  });
  attempt(found, 'interrupts', 'interrupts.ioeventfd', 'ioeventfd', OLD_KERNEL, () => {
    using eventfd = Eventfd.create();
    return withGuest(
      kvm,
      OUT_AND_HALT,
      (vm) => vm.ioeventfd({ eventfd, address: BigInt(PORT), length: 1, pio: true }),
      ({ vcpu }) => {
        expectExit(vcpu.runSync({ timeoutMs: TIMEOUT_MS }), 'hlt');
        if (eventfd.read() !== 1n) throw new Shortfall('the eventfd was not signalled');
        return 'a guest signalled an eventfd through a port, without an exit';
      },
    );
  });
}

export function checkDirtyTracking(kvm: Kvm, found: Findings): void {
  attempt(found, 'dirty-tracking', 'dirty.log', 'Dirty log', OLD_KERNEL, () => {
    using vm = kvm.createVm('default');
    using mapping = HostMapping.anonymous(PAGE);
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: PAGE, mapping, flags: 1 });
    return `KVM_GET_DIRTY_LOG gave ${vm.getDirtyLog(0).byteLength} bytes`;
  });
  attempt(found, 'dirty-tracking', 'dirty.ring', 'Dirty ring', 'A kernel of 5.11 or later', () => {
    using vm = kvm.createVm('default');
    vm.enableDirtyLogRing(16384);
    vm.createVcpu(0).close();
    return 'KVM_CAP_DIRTY_LOG_RING enabled with 16384 bytes';
  });
}
