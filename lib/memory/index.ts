export { GuestMemory } from './guest-memory.ts';
export type { DiscardOptions } from './guest-memory.ts';
export type {
  ConvertAsyncOptions,
  ConvertOptions,
  FaultOptions,
  GuestMemoryOptions,
  HypercallOutcome,
  RangeOptions,
} from './convertible.ts';
export { MemoryRegion } from './region.ts';
export type { RemoveOptions } from './region.ts';
export type { AddOptions } from './address-space.ts';
export type { AccessOptions } from './access.ts';
export type { Backing, BackingKind, DropKind, PrivateSide } from './backing.ts';
export { MemoryAttributes } from './attributes.ts';
export type { AttributeRange } from './attributes.ts';
export type { Attribute, Conversion, ConversionSource, DiscardPolicy, GuestMemoryEvents } from './events.ts';
export type { MemoryAccount, MemoryRange } from './accounting.ts';
export type { Bounds } from './private-pages.ts';
export type { PrefaultOptions, PrefaultProgress, PrefaultResult } from './prefault.ts';
export type { GuestMemfdPort, HostMemoryPort, HugePageSize, MappingPort, VcpuPort, VmPort } from './ports.ts';
