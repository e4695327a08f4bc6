/** Interrupt controllers and the PIT in the kernel, interrupt lines, messages, and routes. */
import { boolean, options as checkOptions, typeError, u32, u64 } from '../../arguments.ts';
import {
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_PIT2,
  KVM_GET_IRQCHIP,
  KVM_GET_PIT2,
  KVM_IRQ_LINE,
  KVM_IRQ_LINE_STATUS,
  KVM_MSI_VALID_DEVID,
  KVM_PIT_SPEAKER_DUMMY,
  KVM_REINJECT_CONTROL,
  KVM_SET_GSI_ROUTING,
  KVM_SET_IRQCHIP,
  KVM_SET_PIT2,
  KVM_SIGNAL_MSI,
  kvmIoapicState,
  kvmIrqchip,
  kvmIrqLevel,
  kvmIrqLevelStatus,
  kvmMsi,
  kvmPicState,
  kvmPitConfig,
  kvmPitState2,
  kvmReinjectControl,
} from '../../abi/index.ts';
import type { Encodable, IoapicState, PicState, PitState2 } from '../../abi/index.ts';
import { VmDirtyLog } from './dirty-log.ts';
import { chipNumber, copyRoutes, encodeRoutes } from './routes.ts';
import type { GsiRoute, IrqchipName } from './routes.ts';

/** The state of an interrupt controller in the kernel. */
export type IrqchipState<C extends IrqchipName = IrqchipName> = C extends 'ioapic' ? IoapicState : PicState;

/** A message-signalled interrupt, as a device would write it. */
export interface MsiMessage {
  /** `0xfee00000n` with the destination in bits 12 to 19; above bit 32 the rest of a 32-bit destination. */
  readonly address: bigint;
  /** The vector in bits 0 to 7. */
  readonly data: number;
  /** The id of the device, for interrupt remapping. x86 does not look at it. */
  readonly devid?: number;
}

const NO_IRQCHIP = 'the VM has no interrupt controller in the kernel: call createIrqchip (or enableSplitIrqchip) first';
const NO_FULL_IRQCHIP =
  'the VM has no full interrupt controller in the kernel: call createIrqchip before the first ' +
  'vCPU; a split one has neither PICs nor IOAPIC there';
const NO_PIT = 'the VM has no PIT: call createPit2 first';
const CHIP_BYTES = 512;

export abstract class VmInterrupts extends VmDirtyLog {
  #routes: readonly GsiRoute[] | undefined;

  /**
   * Makes two PICs and an IOAPIC of 24 pins, and a local APIC for each vCPU made afterwards. Routes GSIs 0 to 15 to the
   * PICs and the IOAPIC, and 16 to 23 to the IOAPIC. HLT waits in the kernel from then on. Before the first vCPU.
   *
   * @throws KvmStateError after the first vCPU; KvmSystemError EEXIST (there is one already, also a split one), EINVAL
   * (a vCPU of another handle exists). Needs KVM_CAP_IRQCHIP. *KVM_CREATE_IRQCHIP*
   */
  createIrqchip(): void {
    this.expectOpen();
    this.expectNoVcpu('The interrupt controller');
    this.ioctl(KVM_CREATE_IRQCHIP);
  }

  /**
   * The registers of one of the controllers.
   *
   * @throws KvmSystemError ENXIO (no full irqchip). *KVM_GET_IRQCHIP*
   */
  getIrqchip<C extends IrqchipName>(chip: C): IrqchipState<C> {
    const bytes = new Uint8Array(kvmIrqchip.size);
    kvmIrqchip.update(bytes, { chipId: chipNumber('chip', chip) });
    this.ioctl(KVM_GET_IRQCHIP, bytes, { state: chip, hint: NO_FULL_IRQCHIP });
    const state = kvmIrqchip.decode(bytes).chip;
    return (chip === 'ioapic' ? kvmIoapicState.decode(state) : kvmPicState.decode(state)) as IrqchipState<C>;
  }

  /** Sets them all, as {@link getIrqchip} gave them. Errors as there. *KVM_SET_IRQCHIP* */
  setIrqchip<C extends IrqchipName>(chip: C, state: Encodable<IrqchipState<C>>): void {
    const chipId = chipNumber('chip', chip);
    const registers = new Uint8Array(CHIP_BYTES);
    if (chip === 'ioapic') kvmIoapicState.encode(state as Encodable<IoapicState>, registers);
    else kvmPicState.encode(state as Encodable<PicState>, registers);
    this.ioctl(KVM_SET_IRQCHIP, kvmIrqchip.encode({ chipId, chip: registers }), { state: chip, hint: NO_FULL_IRQCHIP });
  }

  /**
   * Makes the programmable interval timer at ports 0x40 to 0x43, on GSI 0. After {@link createIrqchip}.
   *
   * @param options - `speakerDummy`: also answer port 0x61, for guests that use it for timing. Default: false.
   * @throws KvmSystemError ENOENT (no full irqchip), EEXIST (there is a PIT). Needs KVM_CAP_PIT2. *KVM_CREATE_PIT2*
   */
  createPit2(options?: { readonly speakerDummy?: boolean }): void {
    const { speakerDummy = false } = checkOptions('options', options, ['speakerDummy']);
    const flags = boolean('speakerDummy', speakerDummy) ? KVM_PIT_SPEAKER_DUMMY : 0;
    this.ioctl(KVM_CREATE_PIT2, kvmPitConfig.encode({ flags }));
  }

  /** The state of the PIT's three channels. KvmSystemError ENXIO without a PIT. *KVM_GET_PIT2* */
  getPit2(): PitState2 {
    const bytes = new Uint8Array(kvmPitState2.size);
    this.ioctl(KVM_GET_PIT2, bytes, { hint: NO_PIT });
    return kvmPitState2.decode(bytes);
  }

  /** Sets it; channel 0 starts to count anew. KvmSystemError ENXIO without a PIT. *KVM_SET_PIT2* */
  setPit2(state: Encodable<PitState2>): void {
    this.ioctl(KVM_SET_PIT2, kvmPitState2.encode(state), { hint: NO_PIT });
  }

  /**
   * Whether ticks of the PIT that the guest was too slow for are delivered later (the default) or dropped. Needs
   * KVM_CAP_REINJECT_CONTROL. KvmSystemError ENXIO without a PIT. *KVM_REINJECT_CONTROL*
   */
  reinjectControl(reinject: boolean): void {
    const bytes = kvmReinjectControl.encode({ pitReinject: boolean('reinject', reinject) });
    this.ioctl(KVM_REINJECT_CONTROL, bytes, { hint: NO_PIT });
  }

  /**
   * Sets the level of an interrupt line. A pulse for an edge-triggered pin is 1, then 0; a level-triggered pin
   * interrupts as long as it is 1. With a split irqchip, a GSI without a route is accepted and does nothing.
   *
   * @param irq - a GSI.
   * @throws KvmSystemError ENXIO (no irqchip). *KVM_IRQ_LINE*
   */
  irqLine(irq: number, level: boolean | 0 | 1): void {
    const bytes = kvmIrqLevel.encode({ irq: u32('irq', irq), level: levelOf(level) });
    this.ioctl(KVM_IRQ_LINE, bytes, { state: `irq ${irq}`, hint: NO_IRQCHIP });
  }

  /**
   * The same, and what became of it: below 0 it was masked or ignored, 0 merged with one that is still pending, above 0
   * the number of vCPUs (and, with default routes, controllers) that it reached. Needs KVM_CAP_IRQ_INJECT_STATUS.
   *
   * @throws KvmSystemError ENXIO (no irqchip). *KVM_IRQ_LINE_STATUS*
   */
  irqLineStatus(irq: number, level: boolean | 0 | 1): number {
    const bytes = kvmIrqLevel.encode({ irq: u32('irq', irq), level: levelOf(level) });
    this.ioctl(KVM_IRQ_LINE_STATUS, bytes, { state: `irq ${irq}`, hint: NO_IRQCHIP });
    return kvmIrqLevelStatus.decode(bytes).status;
  }

  /**
   * Sends a message to the local APICs. KVM finds the APIC of a new vCPU by its id only once the guest has used it or
   * {@link Vcpu.setLapic} was called: before, the message is lost. Needs KVM_CAP_SIGNAL_MSI.
   *
   * @returns true where it was delivered, false where the guest blocks it or it is lost.
   * @throws KvmSystemError EINVAL (no irqchip), EPERM (no vCPU takes it: none has that id, or its APIC is off).
   * *KVM_SIGNAL_MSI*
   */
  signalMsi(message: MsiMessage): boolean {
    const given = checkOptions('message', message, ['address', 'data', 'devid']);
    const address = u64('address', given.address);
    const bytes = kvmMsi.encode({
      addressLo: Number(address & 0xffff_ffffn),
      addressHi: Number(address >> 32n),
      data: u32('data', message.data),
      flags: message.devid === undefined ? 0 : KVM_MSI_VALID_DEVID,
      devid: u32('devid', message.devid ?? 0),
    });
    return (
      this.ioctl(KVM_SIGNAL_MSI, bytes, {
        state: `address 0x${address.toString(16)}, data 0x${message.data.toString(16)}`,
      }) > 0
    );
  }

  /**
   * Replaces the whole routing table; an empty array leaves no routes. At most 4096 routes, of GSIs below 4096. Needs
   * KVM_CAP_IRQ_ROUTING.
   *
   * @throws RangeError for a pin that does not exist, and for two routes of one GSI that the kernel does not take;
   * KvmSystemError EINVAL (no irqchip, or routes to a controller that a split irqchip does not have).
   * *KVM_SET_GSI_ROUTING*
   */
  setGsiRouting(routes: readonly GsiRoute[]): void {
    const bytes = encodeRoutes(routes);
    this.ioctl(KVM_SET_GSI_ROUTING, bytes, {
      state: `${routes.length} routes`,
      hint: `${NO_IRQCHIP}; with a split one, routes of type 'irqchip' are refused`,
    });
    this.#routes = copyRoutes(routes);
  }

  /** The routes that this handle set last; undefined before, when the kernel's default routes are in force. */
  get gsiRoutes(): readonly GsiRoute[] | undefined {
    return this.#routes;
  }
}

function levelOf(level: unknown): 0 | 1 {
  if (level === 1 || level === true) return 1;
  if (level === 0 || level === false) return 0;
  throw typeError('a boolean, 0 or 1', 'level', level);
}
