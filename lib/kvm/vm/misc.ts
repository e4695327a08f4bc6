/** What a VM is watched and restricted by: MSR and PMU filters, statistics; and devices in the kernel. */
import {
  boolean,
  bytes as checkBytes,
  oneOf,
  options as checkOptions,
  rangeError,
  typeError,
  u32,
  u64,
  uint,
} from '../../arguments.ts';
import {
  KVM_CREATE_DEVICE_TEST,
  KVM_MSR_FILTER_DEFAULT_ALLOW,
  KVM_MSR_FILTER_DEFAULT_DENY,
  KVM_MSR_FILTER_MAX_BITMAP_SIZE,
  KVM_MSR_FILTER_MAX_RANGES,
  KVM_MSR_FILTER_READ,
  KVM_MSR_FILTER_WRITE,
  KVM_PMU_EVENT_ALLOW,
  KVM_PMU_EVENT_DENY,
  KVM_PMU_EVENT_FLAG_MASKED_EVENTS,
  KVM_SET_NR_MMU_PAGES,
  KVM_SET_PMU_EVENT_FILTER,
  kvmPmuEventFilter,
} from '../../abi/index.ts';
import { KvmSystemError } from '../../errors.ts';
import type { NativeMsrRange } from '../../native.ts';
import { Device } from '../device.ts';
import { Stats } from '../stats.ts';
import { VmTime } from './time.ts';

/** MSRs in a row, each allowed or denied. */
export interface MsrFilterRange {
  /** The index of the first MSR. x2APIC MSRs (0x800 to 0x8ff) cannot be filtered. */
  readonly base: number;
  /** How many: 1 to 12288. */
  readonly count: number;
  /** Whether reads are filtered by this range. Default: true. */
  readonly read?: boolean;
  /** Whether writes are. Default: true. */
  readonly write?: boolean;
  /** Bit n is MSR `base` + n: 1 allows, 0 denies. At least ceil(count / 64) * 8 bytes. */
  readonly bitmap: Uint8Array;
}

/** Which MSRs the guest may read and write (KVM_X86_SET_MSR_FILTER). */
export interface MsrFilter {
  /** For MSRs in no range. `'deny'` needs at least one range. Default: `'allow'`. */
  readonly default?: 'allow' | 'deny';
  /** At most 16. Default: none. */
  readonly ranges?: readonly MsrFilterRange[];
}

/** Which events the guest may count (KVM_SET_PMU_EVENT_FILTER). */
export interface PmuEventFilter {
  readonly action: 'allow' | 'deny';
  /** Event selects, or the masked form where `maskedEvents` is true. At most 300. Default: none. */
  readonly events?: readonly bigint[];
  /** The fixed counters that the action is for, bit n for counter n. Default: 0. */
  readonly fixedCounterBitmap?: number;
  /** Needs KVM_CAP_PMU_EVENT_MASKED_EVENTS. Default: false. */
  readonly maskedEvents?: boolean;
}

const MAX_MSRS = KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8;

export abstract class VmMisc extends VmTime {
  /**
   * Says which MSRs the guest may touch; replaces the filter that was there. A denied access is a #GP, or an exit where
   * {@link Vm.enableUserSpaceMsr} was called with KVM_MSR_EXIT_REASON_FILTER. Applies to vCPUs at their next entry.
   *
   * @throws RangeError for a range that the kernel would refuse; KvmSystemError ENOTTY (no KVM_CAP_X86_MSR_FILTER).
   * *KVM_X86_SET_MSR_FILTER*
   */
  setMsrFilter(filter: MsrFilter): void {
    const given = checkOptions('filter', filter, ['default', 'ranges']);
    const { ranges = [] } = given;
    const fallback = oneOf('default', given.default ?? 'allow', ['allow', 'deny']);
    if (!Array.isArray(ranges)) throw typeError('an array of ranges', 'ranges', ranges);
    if (ranges.length > KVM_MSR_FILTER_MAX_RANGES) {
      throw rangeError(`at most ${KVM_MSR_FILTER_MAX_RANGES} ranges`, 'ranges', ranges);
    }
    if (fallback === 'deny' && ranges.length === 0) {
      throw rangeError("at least one range where default is 'deny'", 'ranges', ranges);
    }
    const flags = fallback === 'deny' ? KVM_MSR_FILTER_DEFAULT_DENY : KVM_MSR_FILTER_DEFAULT_ALLOW;
    const encoded = (ranges as readonly MsrFilterRange[]).map((range, index) => msrRange(range, `ranges[${index}]`));
    this.check(() => this.native.setMsrFilter(flags, encoded), {
      state: `${ranges.length} ranges`,
      hint: 'this kernel has no KVM_CAP_X86_MSR_FILTER',
    });
  }

  /**
   * Says which events the guest's performance counters may count; replaces the filter that was there.
   *
   * @throws KvmSystemError EINVAL (a flag or action that this kernel lacks), E2BIG (more than 300 events). Needs
   * KVM_CAP_PMU_EVENT_FILTER. *KVM_SET_PMU_EVENT_FILTER*
   */
  setPmuEventFilter(filter: PmuEventFilter): void {
    const {
      action,
      events = [],
      fixedCounterBitmap = 0,
      maskedEvents = false,
    } = checkOptions('filter', filter, ['action', 'events', 'fixedCounterBitmap', 'maskedEvents']);
    const kind = oneOf('action', action, ['allow', 'deny']) === 'allow' ? KVM_PMU_EVENT_ALLOW : KVM_PMU_EVENT_DENY;
    if (!Array.isArray(events)) throw typeError('an array of bigints', 'events', events);
    const bytes = new Uint8Array(kvmPmuEventFilter.size + events.length * 8);
    kvmPmuEventFilter.encode(
      {
        action: kind,
        nevents: events.length,
        fixedCounterBitmap: u32('fixedCounterBitmap', fixedCounterBitmap),
        flags: boolean('maskedEvents', maskedEvents) ? KVM_PMU_EVENT_FLAG_MASKED_EVENTS : 0,
      },
      bytes,
    );
    const view = new DataView(bytes.buffer);
    for (const [index, event] of (events as readonly bigint[]).entries()) {
      view.setBigUint64(kvmPmuEventFilter.size + index * 8, u64(`events[${index}]`, event), true);
    }
    this.ioctl(KVM_SET_PMU_EVENT_FILTER, bytes, {
      state: `${events.length} events`,
      hint:
        'E2BIG: more than 300 events. EINVAL: no KVM_CAP_PMU_EVENT_MASKED_EVENTS for maskedEvents, or an event ' +
        'that is not in the masked form. ENOTTY: no KVM_CAP_PMU_EVENT_FILTER',
    });
  }

  /**
   * How many pages of shadow page tables KVM may keep for this VM. Processors with nested paging hardly use any; KVM
   * chooses a number by itself from the size of guest memory.
   *
   * @param pages - 64 or more.
   * @throws KvmSystemError EINVAL (fewer than 64). Needs KVM_CAP_MMU_SHADOW_CACHE_CONTROL. *KVM_SET_NR_MMU_PAGES*
   */
  setNrMmuPages(pages: number): void {
    this.ioctl(KVM_SET_NR_MMU_PAGES, u32('pages', pages), { state: `${pages} pages` });
  }

  /**
   * Makes a device in the kernel. x86 has only KVM_DEV_TYPE_VFIO, which ties VFIO groups to the VM.
   *
   * @throws KvmSystemError ENODEV (no such type here), EBUSY (VFIO: one for each VM). Needs KVM_CAP_DEVICE_CTRL.
   * *KVM_CREATE_DEVICE*
   */
  createDevice(type: number): Device {
    u32('type', type);
    const native = this.check(() => this.native.createDevice(type, 0), {
      state: `type ${type}`,
      hint: 'ENODEV: this kernel has no such device. EBUSY: the VM has one of it already',
    });
    return new Device(native, type, this);
  }

  /** Whether {@link createDevice} knows this type, without making one. *KVM_CREATE_DEVICE_TEST* */
  hasDeviceType(type: number): boolean {
    u32('type', type);
    try {
      this.check(() => this.native.createDevice(type, KVM_CREATE_DEVICE_TEST)).close();
      return true;
    } catch (error) {
      if (error instanceof KvmSystemError && error.code === 'ENODEV') return false;
      throw error;
    }
  }

  /** The statistics of this VM, by name. Needs KVM_CAP_BINARY_STATS_FD. *KVM_GET_STATS_FD* */
  getStatsFd(): Stats {
    return new Stats(
      this.check(() => this.native.getStatsFd(), {
        hint: 'this kernel has no KVM_CAP_BINARY_STATS_FD',
      }),
      this,
    );
  }
}

function msrRange(range: MsrFilterRange, name: string): NativeMsrRange {
  const {
    base,
    count,
    read = true,
    write = true,
    bitmap,
  } = checkOptions(name, range, ['base', 'count', 'read', 'write', 'bitmap']);
  const flags =
    (boolean(`${name}.read`, read) ? KVM_MSR_FILTER_READ : 0) |
    (boolean(`${name}.write`, write) ? KVM_MSR_FILTER_WRITE : 0);
  if (flags === 0) throw rangeError('at least one of read and write', name, range);
  const msrs = uint(`${name}.count`, count, { min: 1, max: MAX_MSRS });
  return {
    flags,
    base: u32(`${name}.base`, base),
    count: msrs,
    bitmap: checkBytes(`${name}.bitmap`, bitmap, { min: Math.ceil(msrs / 64) * 8 }),
  };
}
