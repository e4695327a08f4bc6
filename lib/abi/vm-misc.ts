/** Clock, statistics, devices and MSR filter of a VM. */
import { nested, struct } from './codec.ts';
import type { Decoded } from './codec.ts';
import { array, s16, u16, u32, u64 } from './fields.ts';

export const kvmClockData = struct('kvm_clock_data', 48, {
  /** Nanoseconds of kvmclock. */
  clock: u64(0),
  /** KVM_CLOCK_*. */
  flags: u32(8),
  /** Nanoseconds of the host's wall clock. */
  realtime: u64(16),
  hostTsc: u64(24),
});
/** *KVM_GET_CLOCK*. */
export interface ClockData extends Decoded<typeof kvmClockData> {}

export const kvmStatsHeader = struct('kvm_stats_header', 24, {
  flags: u32(0),
  /** In bytes, of each name with its padding. */
  nameSize: u32(4),
  numDesc: u32(8),
  idOffset: u32(12),
  descOffset: u32(16),
  dataOffset: u32(20),
});
/** *KVM_GET_STATS_FD*. */
export interface StatsHeader extends Decoded<typeof kvmStatsHeader> {}

/** The name follows, as long as the header says. */
export const kvmStatsDesc = struct('kvm_stats_desc', 16, {
  /** KVM_STATS_TYPE_*, _UNIT_* and _BASE_*. */
  flags: u32(0),
  exponent: s16(4),
  /** How many u64 values. */
  size: u16(6),
  /** In bytes, from the header's `dataOffset`. */
  offset: u32(8),
  bucketSize: u32(12),
});
export interface StatsDesc extends Decoded<typeof kvmStatsDesc> {}

export const kvmCreateDevice = struct('kvm_create_device', 12, { type: u32(0), fd: u32(4), flags: u32(8) });
/** *KVM_CREATE_DEVICE*. */
export interface CreateDevice extends Decoded<typeof kvmCreateDevice> {}

export const kvmDeviceAttr = struct('kvm_device_attr', 24, {
  flags: u32(0),
  group: u32(4),
  attr: u64(8),
  addr: u64(16),
});
export interface DeviceAttr extends Decoded<typeof kvmDeviceAttr> {}

export const kvmMsrFilterRange = struct('kvm_msr_filter_range', 24, {
  /** KVM_MSR_FILTER_READ and _WRITE. */
  flags: u32(0),
  nmsrs: u32(4),
  base: u32(8),
  bitmap: u64(16),
});
export interface MsrFilterRange extends Decoded<typeof kvmMsrFilterRange> {}

export const kvmMsrFilter = struct('kvm_msr_filter', 392, {
  flags: u32(0),
  ranges: array(8, nested(0, kvmMsrFilterRange), 16),
});
/** *KVM_X86_SET_MSR_FILTER*. */
export interface MsrFilter extends Decoded<typeof kvmMsrFilter> {}

/** The head of a PMU event filter; `nevents` u64 follow. */
export const kvmPmuEventFilter = struct('kvm_pmu_event_filter', 32, {
  /** KVM_PMU_EVENT_ALLOW or _DENY. */
  action: u32(0),
  nevents: u32(4),
  fixedCounterBitmap: u32(8),
  flags: u32(12),
});
/** *KVM_SET_PMU_EVENT_FILTER*. */
export interface PmuEventFilter extends Decoded<typeof kvmPmuEventFilter> {}
