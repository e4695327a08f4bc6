/** The clock and the TSC of a VM, and three settings of its beginnings. */
import { options as checkOptions, pageAlignedGpa, rangeError, u32, u64 } from '../../arguments.ts';
import {
  KVM_CLOCK_HOST_TSC,
  KVM_CLOCK_REALTIME,
  KVM_GET_CLOCK,
  KVM_GET_TSC_KHZ,
  KVM_SET_BOOT_CPU_ID,
  KVM_SET_CLOCK,
  KVM_SET_IDENTITY_MAP_ADDR,
  KVM_SET_TSC_KHZ,
  KVM_SET_TSS_ADDR,
  kvmClockData,
} from '../../abi/index.ts';
import { VmEvents } from './events.ts';

/** The guest's kvmclock, with what the host's clocks said at the same moment. */
export interface Clock {
  /** Nanoseconds. */
  readonly clock: bigint;
  /** KVM_CLOCK_TSC_STABLE, KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC. */
  readonly flags: number;
  /** The host's wall clock, in nanoseconds since 1970; undefined where the kernel did not give it. */
  readonly realtime: bigint | undefined;
  /** The host's TSC; undefined where the kernel did not give it. */
  readonly hostTsc: bigint | undefined;
}

/** What {@link Vm.setClock} takes: also what getClock() gave. */
export interface ClockInput {
  /** Nanoseconds. */
  readonly clock: bigint;
  /** Default: what `realtime` and `hostTsc` ask for. */
  readonly flags?: number | undefined;
  /** The wall clock at which the guest's clock was `clock`: the time since then is added. */
  readonly realtime?: bigint | undefined;
  /** The host's TSC at that moment. KVM takes it and does not use it yet. */
  readonly hostTsc?: bigint | undefined;
}

/** Three pages from the address must end at or below 4 GiB. */
const TSS_LAST = 0xffff_d000n;
const IDENTITY_MAP_LAST = 0xffff_f000n;

export abstract class VmTime extends VmEvents {
  /**
   * Reads the clock that the guest sees as kvmclock. With KVM_CLOCK_TSC_STABLE in `flags` it is the same on all vCPUs.
   * Needs KVM_CAP_ADJUST_CLOCK, whose value holds the flags that this kernel knows. *KVM_GET_CLOCK*
   */
  getClock(): Clock {
    const bytes = new Uint8Array(kvmClockData.size);
    this.ioctl(KVM_GET_CLOCK, bytes);
    const { clock, flags, realtime, hostTsc } = kvmClockData.decode(bytes);
    return {
      clock,
      flags,
      realtime: (flags & KVM_CLOCK_REALTIME) === 0 ? undefined : realtime,
      hostTsc: (flags & KVM_CLOCK_HOST_TSC) === 0 ? undefined : hostTsc,
    };
  }

  /**
   * Sets it. With `realtime`, the wall-clock time since then is added, so `setClock(getClock())` some time later, also
   * on another host, lets the guest's clock go on as if it had never stopped; without, it goes on from `clock`.
   *
   * @throws KvmSystemError EINVAL (a flag that this kernel does not know). Needs KVM_CAP_ADJUST_CLOCK. *KVM_SET_CLOCK*
   */
  setClock(clock: ClockInput): void {
    const given = checkOptions('clock', clock, ['clock', 'flags', 'realtime', 'hostTsc']) as ClockInput;
    const { realtime, hostTsc } = given;
    const asked = (realtime === undefined ? 0 : KVM_CLOCK_REALTIME) | (hostTsc === undefined ? 0 : KVM_CLOCK_HOST_TSC);
    const flags = u32('flags', given.flags ?? asked);
    if ((flags & KVM_CLOCK_REALTIME) !== 0 && realtime === undefined) {
      throw rangeError('no KVM_CLOCK_REALTIME where realtime is missing', 'flags', flags);
    }
    if ((flags & KVM_CLOCK_HOST_TSC) !== 0 && hostTsc === undefined) {
      throw rangeError('no KVM_CLOCK_HOST_TSC where hostTsc is missing', 'flags', flags);
    }
    const bytes = kvmClockData.encode({
      clock: u64('clock', given.clock),
      flags,
      realtime: u64('realtime', realtime ?? 0n),
      hostTsc: u64('hostTsc', hostTsc ?? 0n),
    });
    this.ioctl(KVM_SET_CLOCK, bytes, {
      state: `flags ${flags}`,
      hint: 'this kernel does not know one of the flags: KVM_CAP_ADJUST_CLOCK holds those that it knows',
    });
  }

  /**
   * The TSC frequency that vCPUs made later begin with, in kHz; 0 is that of the host. Before the first vCPU. Needs
   * KVM_CAP_VM_TSC_CONTROL.
   *
   * @throws KvmStateError after the first vCPU, whose own setTscKhz then has to be used; KvmSystemError EINVAL (the
   * host cannot run guests at this frequency), ENOTTY (no KVM_CAP_VM_TSC_CONTROL). *KVM_SET_TSC_KHZ*
   */
  setTscKhz(khz: number): void {
    u32('khz', khz);
    this.expectOpen();
    this.expectNoVcpu('The TSC frequency of the VM');
    this.ioctl(KVM_SET_TSC_KHZ, khz, {
      state: `${khz} kHz`,
      hint:
        'the host does not scale the TSC this far (KVM_CAP_TSC_CONTROL), or this kernel has no ' +
        'KVM_CAP_VM_TSC_CONTROL',
    });
  }

  /** The same, read: in kHz. Needs KVM_CAP_VM_TSC_CONTROL. *KVM_GET_TSC_KHZ* */
  getTscKhz(): number {
    return this.ioctl(KVM_GET_TSC_KHZ, undefined, { hint: 'this kernel has no KVM_CAP_VM_TSC_CONTROL' });
  }

  /**
   * Where KVM may put three pages that Intel processors without unrestricted guest need for real mode: below 4 GiB, in
   * no memslot. Other processors take it and do nothing. Needs KVM_CAP_SET_TSS_ADDR.
   *
   * @param address - a multiple of 4096, at most 0xffffd000; `0xfffbd000n` is usual.
   * @throws KvmSystemError EEXIST or EINVAL (a memslot is there), ENOMEM. *KVM_SET_TSS_ADDR*
   */
  setTssAddr(address: bigint): void {
    if (pageAlignedGpa('address', address) > TSS_LAST) {
      throw rangeError('an address whose three pages end at or below 4 GiB', 'address', address);
    }
    this.ioctl(KVM_SET_TSS_ADDR, address, {
      state: `0x${address.toString(16)}`,
      hint: 'a memslot is at one of the three pages, or the address was set before',
    });
  }

  /**
   * Where KVM may put one page of identity-mapping page table, for the same processors. Before the first vCPU. Needs
   * KVM_CAP_SET_IDENTITY_MAP_ADDR.
   *
   * @param address - a multiple of 4096 below 4 GiB, in no memslot; 0n is the default, 0xfffbc000.
   * @throws KvmStateError after the first vCPU; KvmSystemError EINVAL (so by another handle).
   * *KVM_SET_IDENTITY_MAP_ADDR*
   */
  setIdentityMapAddr(address: bigint): void {
    if (pageAlignedGpa('address', address) > IDENTITY_MAP_LAST) {
      throw rangeError('an address below 4 GiB', 'address', address);
    }
    this.expectOpen();
    this.expectNoVcpu('The address of the identity map');
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, address, true);
    this.ioctl(KVM_SET_IDENTITY_MAP_ADDR, bytes, { state: `0x${address.toString(16)}`, hint: 'the VM has a vCPU' });
  }

  /**
   * Which vCPU boots the guest; the others wait for its start-up interrupt. Default: vCPU 0. Before the first vCPU.
   * Needs KVM_CAP_SET_BOOT_CPU_ID.
   *
   * @throws KvmStateError after the first vCPU; KvmSystemError EBUSY (made by another handle). *KVM_SET_BOOT_CPU_ID*
   */
  setBootCpuId(id: number): void {
    u32('id', id);
    this.expectOpen();
    this.expectNoVcpu('The id of the boot vCPU');
    this.ioctl(KVM_SET_BOOT_CPU_ID, id, { state: `vCPU ${id}`, hint: 'EBUSY: the VM has a vCPU' });
  }
}
