import { expect, test } from 'vitest';
import * as abi from '../../lib/abi/index.ts';

// An ioctl number holds the size of its argument: the table of structs against the table of numbers.
test.each([
  ['KVM_GET_REGS', abi.kvmRegs],
  ['KVM_SET_REGS', abi.kvmRegs],
  ['KVM_GET_SREGS', abi.kvmSregs],
  ['KVM_SET_SREGS', abi.kvmSregs],
  ['KVM_GET_SREGS2', abi.kvmSregs2],
  ['KVM_SET_SREGS2', abi.kvmSregs2],
  ['KVM_GET_FPU', abi.kvmFpu],
  ['KVM_SET_FPU', abi.kvmFpu],
  ['KVM_GET_LAPIC', abi.kvmLapicState],
  ['KVM_SET_LAPIC', abi.kvmLapicState],
  ['KVM_GET_XSAVE', abi.kvmXsave],
  ['KVM_SET_XSAVE', abi.kvmXsave],
  ['KVM_GET_XSAVE2', abi.kvmXsave],
  ['KVM_GET_XCRS', abi.kvmXcrs],
  ['KVM_SET_XCRS', abi.kvmXcrs],
  ['KVM_GET_DEBUGREGS', abi.kvmDebugregs],
  ['KVM_SET_DEBUGREGS', abi.kvmDebugregs],
  ['KVM_GET_VCPU_EVENTS', abi.kvmVcpuEvents],
  ['KVM_SET_VCPU_EVENTS', abi.kvmVcpuEvents],
  ['KVM_GET_MP_STATE', abi.kvmMpState],
  ['KVM_SET_MP_STATE', abi.kvmMpState],
  ['KVM_GET_NESTED_STATE', abi.kvmNestedState],
  ['KVM_SET_NESTED_STATE', abi.kvmNestedState],
  ['KVM_GET_ONE_REG', abi.kvmOneReg],
  ['KVM_SET_ONE_REG', abi.kvmOneReg],
  ['KVM_SET_GUEST_DEBUG', abi.kvmGuestDebug],
  ['KVM_TRANSLATE', abi.kvmTranslation],
  ['KVM_INTERRUPT', abi.kvmInterrupt],
  ['KVM_TPR_ACCESS_REPORTING', abi.kvmTprAccessCtl],
  ['KVM_SET_VAPIC_ADDR', abi.kvmVapicAddr],
  ['KVM_X86_SET_MCE', abi.kvmX86Mce],
  ['KVM_PRE_FAULT_MEMORY', abi.kvmPreFaultMemory],
  ['KVM_SET_USER_MEMORY_REGION', abi.kvmUserspaceMemoryRegion],
  ['KVM_SET_USER_MEMORY_REGION2', abi.kvmUserspaceMemoryRegion2],
  ['KVM_CREATE_GUEST_MEMFD', abi.kvmCreateGuestMemfd],
  ['KVM_SET_MEMORY_ATTRIBUTES', abi.kvmMemoryAttributes],
  ['KVM_GET_DIRTY_LOG', abi.kvmDirtyLog],
  ['KVM_CLEAR_DIRTY_LOG', abi.kvmClearDirtyLog],
  ['KVM_MEMORY_ENCRYPT_REG_REGION', abi.kvmEncRegion],
  ['KVM_ENABLE_CAP', abi.kvmEnableCap],
  ['KVM_IRQ_LINE', abi.kvmIrqLevel],
  ['KVM_GET_IRQCHIP', abi.kvmIrqchip],
  ['KVM_SET_IRQCHIP', abi.kvmIrqchip],
  ['KVM_CREATE_PIT2', abi.kvmPitConfig],
  ['KVM_GET_PIT2', abi.kvmPitState2],
  ['KVM_SET_PIT2', abi.kvmPitState2],
  ['KVM_SIGNAL_MSI', abi.kvmMsi],
  ['KVM_IRQFD', abi.kvmIrqfd],
  ['KVM_IOEVENTFD', abi.kvmIoeventfd],
  ['KVM_REGISTER_COALESCED_MMIO', abi.kvmCoalescedMmioZone],
  ['KVM_GET_CLOCK', abi.kvmClockData],
  ['KVM_SET_CLOCK', abi.kvmClockData],
  ['KVM_CREATE_DEVICE', abi.kvmCreateDevice],
  ['KVM_SET_DEVICE_ATTR', abi.kvmDeviceAttr],
  ['KVM_X86_SET_MSR_FILTER', abi.kvmMsrFilter],
  ['KVM_SET_PMU_EVENT_FILTER', abi.kvmPmuEventFilter],
] as const)('%s takes a struct of the size in its number', (name, { size }) => {
  expect((abi[name] >>> 16) & 0x3fff).toBe(size);
});

test('an ioctl number names one request', () => {
  const requests = Object.entries(abi).filter(
    ([name, value]) => name.startsWith('KVM_') && typeof value === 'number' && (value & 0xff00) === 0xae00,
  );
  expect(requests.length).toBe(abi.IOCTL_NAMES.size);
  for (const [name, request] of requests) expect(abi.ioctlName(request as number)).toBe(name);
  expect(abi.ioctlName(0xaeff)).toBe('ioctl 0xaeff');
});

test('capabilities and exit reasons have one name each, both ways', () => {
  expect(abi.CAP_NAMES.size).toBe(Object.keys(abi.CAPS).length);
  expect(abi.capName(234)).toBe('KVM_CAP_GUEST_MEMFD');
  expect(abi.capName(9999)).toBe('capability 9999');
  expect([...abi.EXIT_REASON_NAMES.keys()]).toEqual(Array.from({ length: 44 }, (_, reason) => reason));
  expect(abi.exitReasonName(39)).toBe('KVM_EXIT_MEMORY_FAULT');
  expect(abi.exitReasonName(99)).toBe('exit reason 99');
});

test('the places in kvm_run are those of its table', () => {
  const { fields } = abi.kvmRun;
  const { RUN } = abi;
  expect(fields.exitReason.offset).toBe(RUN.exitReason);
  expect(fields.kvmValidRegs.offset).toBe(RUN.validRegs);
  expect(abi.kvmRunSync.fields.sregs.offset).toBe(RUN.syncSregs);
  expect(abi.kvmRunSync.fields.events.offset).toBe(RUN.syncEvents);
});
