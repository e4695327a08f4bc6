/**
 * Real Linux KVM from TypeScript. Re-exports only; importing it loads no addon and works on every platform. The
 * kernel's numbers and struct tables are in `node-kvm/abi`, the lab in `node-kvm/lab`.
 */
export * from './errors.ts';
export * from './kvm/index.ts';
export { createVm, TIERS } from './tier/index.ts';
export type { CreateVmOptions, SelectedVm, Tier, TierRefusal } from './tier/index.ts';
export { GuestMemory, MemoryRegion } from './memory/index.ts';
export type {
  AccessOptions,
  AddOptions,
  Attribute,
  AttributeRange,
  Backing,
  BackingKind,
  Conversion,
  ConversionSource,
  ConvertAsyncOptions,
  ConvertOptions,
  DiscardOptions,
  DiscardPolicy,
  FaultOptions,
  GuestMemoryEvents,
  GuestMemoryOptions,
  HypercallOutcome,
  MemoryAccount,
  MemoryRange,
  PrefaultOptions,
  PrefaultProgress,
  PrefaultResult,
  PrivateSide,
  RangeOptions,
  RemoveOptions,
} from './memory/index.ts';
export { examineHost } from './doctor/index.ts';
export type { DoctorReport } from './doctor/index.ts';
export type { CapName, CpuidEntry, Regs, Segment, Sregs, Sregs2, VcpuEvents } from './abi/index.ts';
