/** Interrupt controllers, the PIT, interrupt routing, and the eventfds tied to guest accesses and interrupts. */
import { nested, struct } from './codec.ts';
import type { Decoded } from './codec.ts';
import { array, bool8, bytes, s32, s64, u16, u32, u64, u8 } from './fields.ts';
import { list } from './list.ts';

export const kvmIrqLevel = struct('kvm_irq_level', 8, { irq: u32(0), level: u32(4) });
export interface IrqLevel extends Decoded<typeof kvmIrqLevel> {}

/**
 * What KVM_IRQ_LINE_STATUS writes over `irq`: below 0 masked or ignored, 0 merged with one pending, above 0 the
 * number of vCPUs that it reached.
 */
export const kvmIrqLevelStatus = struct('kvm_irq_level', 8, { status: s32(0), level: u32(4) }, 'irq_level');

export const kvmIrqchip = struct('kvm_irqchip', 520, {
  /** KVM_IRQCHIP_*. */
  chipId: u32(0),
  /** A kvmPicState or a kvmIoapicState at its start, by `chipId`. */
  chip: bytes(8, 512),
});
/** *KVM_GET_IRQCHIP*. */
export interface Irqchip extends Decoded<typeof kvmIrqchip> {}

export const kvmPicState = struct('kvm_pic_state', 16, {
  lastIrr: u8(0),
  irr: u8(1),
  imr: u8(2),
  isr: u8(3),
  priorityAdd: u8(4),
  irqBase: u8(5),
  readRegSelect: u8(6),
  poll: u8(7),
  specialMask: u8(8),
  initState: u8(9),
  autoEoi: u8(10),
  rotateOnAutoEoi: u8(11),
  specialFullyNestedMode: u8(12),
  init4: u8(13),
  elcr: u8(14),
  elcrMask: u8(15),
});
export interface PicState extends Decoded<typeof kvmPicState> {}

export const kvmIoapicState = struct('kvm_ioapic_state', 216, {
  baseAddress: u64(0),
  ioregsel: u32(8),
  id: u32(12),
  irr: u32(16),
  /** One redirection entry for each pin, as the IOAPIC's registers hold it. */
  redirtbl: array(24, u64(0), 24),
});
export interface IoapicState extends Decoded<typeof kvmIoapicState> {}

export const kvmPitConfig = struct('kvm_pit_config', 64, { flags: u32(0) });
export interface PitConfig extends Decoded<typeof kvmPitConfig> {}

export const kvmPitChannelState = struct('kvm_pit_channel_state', 24, {
  /** Up to 65536. */
  count: u32(0),
  latchedCount: u16(4),
  countLatched: u8(6),
  statusLatched: u8(7),
  status: u8(8),
  readState: u8(9),
  writeState: u8(10),
  writeLatch: u8(11),
  rwMode: u8(12),
  mode: u8(13),
  bcd: u8(14),
  gate: u8(15),
  /** In nanoseconds. */
  countLoadTime: s64(16),
});
export interface PitChannelState extends Decoded<typeof kvmPitChannelState> {}

export const kvmPitState2 = struct('kvm_pit_state2', 112, {
  channels: array(0, nested(0, kvmPitChannelState), 3),
  /** KVM_PIT_FLAGS_*. */
  flags: u32(72),
});
/** *KVM_GET_PIT2*. */
export interface PitState2 extends Decoded<typeof kvmPitState2> {}

export const kvmReinjectControl = struct('kvm_reinject_control', 32, { pitReinject: bool8(0) });

export const kvmMsi = struct('kvm_msi', 32, {
  addressLo: u32(0),
  addressHi: u32(4),
  data: u32(8),
  /** KVM_MSI_VALID_DEVID. */
  flags: u32(12),
  devid: u32(16),
});
/** *KVM_SIGNAL_MSI*. */
export interface Msi extends Decoded<typeof kvmMsi> {}

export const kvmIrqRoutingIrqchip = struct('kvm_irq_routing_irqchip', 8, { irqchip: u32(0), pin: u32(4) });
export interface IrqRoutingIrqchip extends Decoded<typeof kvmIrqRoutingIrqchip> {}

export const kvmIrqRoutingMsi = struct('kvm_irq_routing_msi', 16, {
  addressLo: u32(0),
  addressHi: u32(4),
  data: u32(8),
  devid: u32(12),
});
export interface IrqRoutingMsi extends Decoded<typeof kvmIrqRoutingMsi> {}

export const kvmIrqRoutingEntry = struct('kvm_irq_routing_entry', 48, {
  gsi: u32(0),
  /** KVM_IRQ_ROUTING_*; says what `u` holds at its start. */
  type: u32(4),
  flags: u32(8),
  u: bytes(16, 32),
});
export interface IrqRoutingEntry extends Decoded<typeof kvmIrqRoutingEntry> {}
export const kvmIrqRouting = list('kvm_irq_routing', 'nr', 'entries', 8, kvmIrqRoutingEntry);

export const kvmIrqfd = struct('kvm_irqfd', 32, {
  fd: u32(0),
  gsi: u32(4),
  /** KVM_IRQFD_FLAG_*. */
  flags: u32(8),
  resamplefd: u32(12),
});
/** *KVM_IRQFD*. */
export interface Irqfd extends Decoded<typeof kvmIrqfd> {}

export const kvmIoeventfd = struct('kvm_ioeventfd', 64, {
  datamatch: u64(0),
  addr: u64(8),
  /** 0, 1, 2, 4 or 8 bytes; 0 is any. */
  len: u32(16),
  fd: s32(20),
  /** KVM_IOEVENTFD_FLAG_*. */
  flags: u32(24),
});
/** *KVM_IOEVENTFD*. */
export interface Ioeventfd extends Decoded<typeof kvmIoeventfd> {}

export const kvmCoalescedMmioZone = struct('kvm_coalesced_mmio_zone', 16, { addr: u64(0), size: u32(8), pio: u32(12) });
/** *KVM_REGISTER_COALESCED_MMIO*. */
export interface CoalescedMmioZone extends Decoded<typeof kvmCoalescedMmioZone> {}

/** The head of the ring; its entries follow, as many as the page holds. Empty where `first` is `last`. */
export const kvmCoalescedMmioRing = struct('kvm_coalesced_mmio_ring', 8, { first: u32(0), last: u32(4) });
export const kvmCoalescedMmio = struct('kvm_coalesced_mmio', 24, {
  physAddr: u64(0),
  len: u32(8),
  pio: u32(12),
  data: bytes(16, 8),
});
/** A write that the ring holds. */
export interface CoalescedMmio extends Decoded<typeof kvmCoalescedMmio> {}
