/** The local APIC, events, and interrupts into this vCPU. */
import { bytes as checkBytes, boolean, oneOf, u32, u64, u8, uint } from '../../arguments.ts';
import {
  KVM_APIC_REG_SIZE,
  KVM_GET_LAPIC,
  KVM_GET_MP_STATE,
  KVM_GET_VCPU_EVENTS,
  KVM_INTERRUPT,
  KVM_MP_STATE_AP_RESET_HOLD,
  KVM_MP_STATE_HALTED,
  KVM_MP_STATE_INIT_RECEIVED,
  KVM_MP_STATE_RUNNABLE,
  KVM_MP_STATE_SIPI_RECEIVED,
  KVM_MP_STATE_UNINITIALIZED,
  KVM_NMI,
  KVM_SET_LAPIC,
  KVM_SET_MP_STATE,
  KVM_SET_VAPIC_ADDR,
  KVM_SET_VCPU_EVENTS,
  KVM_SMI,
  KVM_TPR_ACCESS_REPORTING,
  kvmInterrupt,
  kvmMpState,
  kvmTprAccessCtl,
  kvmVapicAddr,
  kvmVcpuEvents,
} from '../../abi/index.ts';
import type { Input, VcpuEvents } from '../../abi/index.ts';
import { KvmSystemError } from '../../errors.ts';
import { VcpuMsrs } from './msrs.ts';
import type { StateOptions } from './state.ts';

const MP_STATES = {
  runnable: KVM_MP_STATE_RUNNABLE,
  uninitialized: KVM_MP_STATE_UNINITIALIZED,
  'init-received': KVM_MP_STATE_INIT_RECEIVED,
  halted: KVM_MP_STATE_HALTED,
  'sipi-received': KVM_MP_STATE_SIPI_RECEIVED,
  'ap-reset-hold': KVM_MP_STATE_AP_RESET_HOLD,
} as const;

/** Whether a vCPU executes, or waits for what. */
export type MpStateName = keyof typeof MP_STATES;
const MP_STATE_NAMES = Object.keys(MP_STATES) as MpStateName[];

const NO_LAPIC =
  'the local APIC of this vCPU is not in the kernel: call vm.createIrqchip() or ' +
  'vm.enableSplitIrqchip() before creating vCPUs';

export abstract class VcpuInterrupts extends VcpuMsrs {
  /**
   * The register page of the local APIC: 1024 bytes, a copy; register 0xNN0 is the little-endian u32 at 0xNN0. Needs an
   * APIC in the kernel. *KVM_GET_LAPIC*
   */
  getLapic(options?: StateOptions): Uint8Array {
    this.beforeRead(options);
    const page = new Uint8Array(KVM_APIC_REG_SIZE);
    this.ioctl(KVM_GET_LAPIC, page, NO_LAPIC);
    return page;
  }

  /** *KVM_SET_LAPIC* */
  setLapic(page: Uint8Array): void {
    const copy = checkBytes('page', page, { length: KVM_APIC_REG_SIZE }).slice();
    this.beforeWrite();
    this.ioctl(KVM_SET_LAPIC, copy, NO_LAPIC);
  }

  /** Executing, halted, or waiting for INIT or SIPI. *KVM_GET_MP_STATE* */
  getMpState(options?: StateOptions): MpStateName {
    this.beforeRead(options);
    const bytes = new Uint8Array(kvmMpState.size);
    this.ioctl(KVM_GET_MP_STATE, bytes);
    const { mpState } = kvmMpState.decode(bytes);
    const name = MP_STATE_NAMES.find((candidate) => MP_STATES[candidate] === mpState);
    if (name !== undefined) return name;
    throw new KvmSystemError(`KVM_GET_MP_STATE gave ${mpState}, which this version does not know`, {
      code: 'EPROTO',
      errno: -71,
      syscall: 'KVM_GET_MP_STATE',
    });
  }

  /** All but `'runnable'` need an APIC in the kernel. *KVM_SET_MP_STATE* */
  setMpState(state: MpStateName): void {
    const bytes = kvmMpState.encode({ mpState: MP_STATES[oneOf('state', state, MP_STATE_NAMES)] });
    this.beforeWrite();
    this.ioctl(KVM_SET_MP_STATE, bytes, NO_LAPIC);
    this.syncRegs.invalidate();
  }

  /** Pending and injected exceptions, interrupts, NMIs and SMIs. *KVM_GET_VCPU_EVENTS* */
  getVcpuEvents(options?: StateOptions): VcpuEvents {
    this.beforeRead(options);
    const bytes = new Uint8Array(kvmVcpuEvents.size);
    this.ioctl(KVM_GET_VCPU_EVENTS, bytes);
    return kvmVcpuEvents.decode(bytes);
  }

  /** `flags` (KVM_VCPUEVENT_VALID_*) says which of the optional parts are to be set. *KVM_SET_VCPU_EVENTS* */
  setVcpuEvents(events: Input<typeof kvmVcpuEvents>): void {
    const bytes = kvmVcpuEvents.encode(events);
    this.beforeWrite();
    this.ioctl(
      KVM_SET_VCPU_EVENTS,
      bytes,
      'a flag needs a capability that is not enabled on the VM ' +
        '(KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT), or an exception vector is not one',
    );
    this.syncRegs.invalidate();
  }

  /**
   * Queues an external interrupt, vector 0 to 255. Without an in-kernel APIC: when `readyForInterruptInjection` is set
   * (else ask for it with `requestInterruptWindow`). *KVM_INTERRUPT*
   *
   * @throws KvmSystemError EEXIST where one is queued already, ENXIO with the full irqchip in the kernel.
   */
  interrupt(vector: number): void {
    const bytes = kvmInterrupt.encode({ irq: u8('vector', vector) });
    this.beforeWrite();
    this.ioctl(
      KVM_INTERRUPT,
      bytes,
      'EEXIST: an interrupt is queued already; ENXIO: the irqchip is in the kernel, use vm.irqLine or vm.signalMsi',
    );
    this.syncRegs.invalidate();
  }

  /** Queues an NMI. Needs KVM_CAP_USER_NMI. *KVM_NMI* */
  nmi(): void {
    this.beforeWrite();
    this.ioctl(KVM_NMI);
    this.syncRegs.invalidate();
  }

  /** Queues an SMI. Needs KVM_CAP_X86_SMM. *KVM_SMI* */
  smi(): void {
    this.beforeWrite();
    this.ioctl(KVM_SMI, undefined, 'this kernel was built without KVM_SMM');
    this.syncRegs.invalidate();
  }

  /** Has accesses to the TPR exit with `'tpr-access'`. Needs an APIC in the kernel. *KVM_TPR_ACCESS_REPORTING* */
  tprAccessReporting(enabled: boolean): void {
    const bytes = kvmTprAccessCtl.encode({ enabled: boolean('enabled', enabled) ? 1 : 0, flags: 0 });
    this.beforeWrite();
    this.ioctl(KVM_TPR_ACCESS_REPORTING, bytes, NO_LAPIC);
  }

  /** Where the guest keeps a cached TPR; 0n for none. Needs an APIC in the kernel. *KVM_SET_VAPIC_ADDR* */
  setVapicAddr(gpa: bigint): void {
    const bytes = kvmVapicAddr.encode({ vapicAddr: u64('gpa', gpa) });
    this.beforeWrite();
    this.ioctl(KVM_SET_VAPIC_ADDR, bytes, NO_LAPIC);
  }
}

/** One register of an APIC page as {@link VcpuInterrupts.getLapic} gives it: `lapicRegister(page, 0x20)` is the id. */
export function lapicRegister(page: Uint8Array, offset: number): number {
  checkBytes('page', page, { length: KVM_APIC_REG_SIZE });
  uint('offset', offset, { max: KVM_APIC_REG_SIZE - 4 });
  return new DataView(page.buffer, page.byteOffset, page.byteLength).getUint32(offset, true);
}

/** Changes one register of an APIC page, to be set with {@link VcpuInterrupts.setLapic}. */
export function setLapicRegister(page: Uint8Array, offset: number, value: number): void {
  checkBytes('page', page, { length: KVM_APIC_REG_SIZE });
  uint('offset', offset, { max: KVM_APIC_REG_SIZE - 4 });
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  view.setUint32(offset, u32('value', value), true);
}
