/** Eventfds tied to interrupts and to guest accesses, and zones whose writes are gathered. */
import {
  boolean,
  gpa as checkGpa,
  options as checkOptions,
  rangeError,
  typeError,
  u32,
  u64,
  uint,
} from '../../arguments.ts';
import {
  KVM_IOEVENTFD,
  KVM_IOEVENTFD_FLAG_DATAMATCH,
  KVM_IOEVENTFD_FLAG_DEASSIGN,
  KVM_IOEVENTFD_FLAG_PIO,
  KVM_IRQFD,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
  KVM_REGISTER_COALESCED_MMIO,
  KVM_UNREGISTER_COALESCED_MMIO,
  kvmCoalescedMmioZone,
  kvmIoeventfd,
  kvmIrqfd,
} from '../../abi/index.ts';
import { KvmStateError } from '../../errors.ts';
import { CoalescedRing } from '../coalesced-ring.ts';
import { Eventfd } from '../eventfd.ts';
import { expectHandle } from '../handle.ts';
import { Vcpu } from '../vcpu/vcpu.ts';
import { VmInterrupts } from './interrupts.ts';

/** An eventfd that raises an interrupt (KVM_IRQFD). */
export interface IrqfdAssignment {
  /** Each write to it raises the interrupt. In use for one GSI at a time. */
  readonly eventfd: Eventfd;
  readonly gsi: number;
  /**
   * For level-triggered GSIs of a full irqchip: the line stays up until the guest acknowledges it; then it goes down
   * and this eventfd is signalled, for the device to raise it again where it still has a cause.
   */
  readonly resample?: Eventfd;
}

/** A write of the guest that signals an eventfd in place of an exit (KVM_IOEVENTFD). */
export interface IoeventfdAssignment {
  /** Gets 1 for each such write of the guest, which then does not exit. */
  readonly eventfd: Eventfd;
  /** A guest physical address, or a port where `pio` is true. */
  readonly address: bigint;
  /** In bytes, the width of the write: 1, 2, 4 or 8; 0 (the default) for any width. */
  readonly length?: 0 | 1 | 2 | 4 | 8;
  /** Whether `address` is a port. Default: false. */
  readonly pio?: boolean;
  /** Only writes of this value count; it must fit `length`, which must not be 0. Default: any value. */
  readonly datamatch?: bigint;
}

/** A range whose writes are kept in a ring in place of an exit for each (KVM_REGISTER_COALESCED_MMIO). */
export interface CoalescedZone {
  /** A guest physical address, or a port where `pio` is true. */
  readonly address: bigint;
  /** In bytes, below 2^32. */
  readonly size: number;
  /** Whether `address` is a port. Default: false. Needs KVM_CAP_COALESCED_PIO. */
  readonly pio?: boolean;
}

const WIDTHS: readonly unknown[] = [0, 1, 2, 4, 8];
const PORTS = 0x1_0000n;

export abstract class VmEvents extends VmInterrupts {
  /**
   * Has writes to an eventfd raise an interrupt, without a system call on the VM: from here, from another thread or
   * from another process. An eventfd that is signalled already raises it at once. Events of a GSI without a route are
   * dropped. Stays until {@link irqfdDeassign} or the end of the VM.
   *
   * @throws KvmSystemError EINVAL (no irqchip; resample without a full one), EBUSY (the eventfd is in use). Needs
   * KVM_CAP_IRQFD; `resample` KVM_CAP_IRQFD_RESAMPLE. *KVM_IRQFD*
   */
  irqfd(assignment: IrqfdAssignment): void {
    const { eventfd, gsi, resample } = checkOptions('assignment', assignment, [
      'eventfd',
      'gsi',
      'resample',
    ]) as IrqfdAssignment;
    const bytes = kvmIrqfd.encode({
      fd: openEventfd('eventfd', eventfd).fd,
      gsi: u32('gsi', gsi),
      flags: resample === undefined ? 0 : KVM_IRQFD_FLAG_RESAMPLE,
      resamplefd: resample === undefined ? 0 : openEventfd('resample', resample).fd,
    });
    this.ioctl(KVM_IRQFD, bytes, { state: `GSI ${gsi}` });
  }

  /**
   * Ends that. An event on its way is delivered before this returns. Where this eventfd is not an irqfd of this GSI,
   * nothing happens: the kernel does not tell. *KVM_IRQFD*
   */
  irqfdDeassign(assignment: Pick<IrqfdAssignment, 'eventfd' | 'gsi'>): void {
    const { eventfd, gsi } = checkOptions('assignment', assignment, ['eventfd', 'gsi']) as IrqfdAssignment;
    const bytes = kvmIrqfd.encode({
      fd: openEventfd('eventfd', eventfd).fd,
      gsi: u32('gsi', gsi),
      flags: KVM_IRQFD_FLAG_DEASSIGN,
      resamplefd: 0,
    });
    this.ioctl(KVM_IRQFD, bytes, { state: `GSI ${gsi}`, hint: 'the VM has no interrupt controller in the kernel' });
  }

  /**
   * Has a write of the guest signal an eventfd instead of exiting: the doorbell of a device. Reads of the address exit
   * as ever, and so do writes of another width or value.
   *
   * @throws RangeError for a `length` that is none of 0, 1, 2, 4, 8, and a `datamatch` that it does not hold;
   * KvmSystemError EEXIST (such an assignment is there), ENOSPC (too many). Needs KVM_CAP_IOEVENTFD; a `length` of 0
   * KVM_CAP_IOEVENTFD_ANY_LENGTH. *KVM_IOEVENTFD*
   */
  ioeventfd(assignment: IoeventfdAssignment): void {
    const { bytes, state } = encodeIoeventfd(assignment, 0);
    this.ioctl(KVM_IOEVENTFD, bytes, { state });
  }

  /**
   * Ends that. Give the same eventfd, address, length, pio and datamatch.
   *
   * @throws KvmSystemError ENOENT where there is no such assignment. *KVM_IOEVENTFD*
   */
  ioeventfdDeassign(assignment: IoeventfdAssignment): void {
    const { bytes, state } = encodeIoeventfd(assignment, KVM_IOEVENTFD_FLAG_DEASSIGN);
    this.ioctl(KVM_IOEVENTFD, bytes, {
      state,
      hint: 'there is no assignment with the same eventfd, address, length, pio and datamatch',
    });
  }

  /**
   * Has KVM gather the guest's writes to a zone in {@link coalescedRing} instead of exiting for each. Reads exit, and
   * so does a write that only begins inside the zone.
   *
   * @throws KvmSystemError ENOSPC (too many zones and doorbells). Needs KVM_CAP_COALESCED_MMIO.
   * *KVM_REGISTER_COALESCED_MMIO*
   */
  registerCoalescedMmio(zone: CoalescedZone): void {
    const { bytes, state } = encodeZone(zone);
    this.ioctl(KVM_REGISTER_COALESCED_MMIO, bytes, { state });
  }

  /**
   * Ends that for every registered zone of this kind that lies inside this one. Where there is none, nothing happens.
   * What is in the ring stays there. *KVM_UNREGISTER_COALESCED_MMIO*
   */
  unregisterCoalescedMmio(zone: CoalescedZone): void {
    const { bytes, state } = encodeZone(zone);
    this.ioctl(KVM_UNREGISTER_COALESCED_MMIO, bytes, { state });
  }

  /**
   * A reader of the VM's ring of coalesced writes, through the mapping of one of its vCPUs (any: it is the same ring).
   *
   * @throws KvmUnsupportedError without KVM_CAP_COALESCED_MMIO.
   */
  coalescedRing(vcpu: Vcpu): CoalescedRing {
    this.expectOpen();
    expectHandle(Vcpu, 'a vCPU', 'vcpu', vcpu);
    if ((vcpu.vm as unknown) !== this) throw new KvmStateError(`The vCPU ${vcpu.id} is not one of this VM`);
    return new CoalescedRing(vcpu);
  }
}

function openEventfd(name: string, value: unknown): Eventfd {
  return expectHandle(Eventfd, 'an Eventfd', name, value);
}

function encodeIoeventfd(assignment: IoeventfdAssignment, extraFlags: number): { bytes: Uint8Array; state: string } {
  const {
    eventfd,
    address,
    length = 0,
    pio = false,
    datamatch,
  } = checkOptions('assignment', assignment, [
    'eventfd',
    'address',
    'length',
    'pio',
    'datamatch',
  ]) as IoeventfdAssignment;
  const fd = openEventfd('eventfd', eventfd).fd;
  if (typeof length !== 'number') throw typeError('0, 1, 2, 4 or 8', 'length', length);
  if (!WIDTHS.includes(length)) throw rangeError('0, 1, 2, 4 or 8', 'length', length);
  checkAddress(address, BigInt(length), boolean('pio', pio), 'length');
  let flags = extraFlags | (pio ? KVM_IOEVENTFD_FLAG_PIO : 0);
  if (datamatch !== undefined) {
    u64('datamatch', datamatch);
    if (length === 0) throw rangeError('no datamatch where length is 0 (any width)', 'datamatch', datamatch);
    if (datamatch >> BigInt(length * 8) !== 0n) throw rangeError(`a value of ${length} bytes`, 'datamatch', datamatch);
    flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
  }
  return {
    bytes: kvmIoeventfd.encode({ datamatch: datamatch ?? 0n, addr: address, len: length, fd, flags }),
    state: `${place(address, pio)}, length ${length}${datamatch === undefined ? '' : `, datamatch ${datamatch}`}`,
  };
}

function encodeZone(zone: CoalescedZone): { bytes: Uint8Array; state: string } {
  const { address, size, pio = false } = checkOptions('zone', zone, ['address', 'size', 'pio']) as CoalescedZone;
  uint('size', size, { min: 1, max: 0xffff_ffff });
  checkAddress(address, BigInt(size), boolean('pio', pio), 'size');
  return {
    bytes: kvmCoalescedMmioZone.encode({ addr: address, size, pio: pio ? 1 : 0 }),
    state: `${place(address, pio)}, size ${size}`,
  };
}

function checkAddress(address: bigint, size: bigint, pio: boolean, sizeName: string): void {
  checkGpa('address', address);
  if (!pio) return;
  if (address >= PORTS) throw rangeError('a port below 65536', 'address', address);
  if (address + size > PORTS) throw rangeError(`at most ${PORTS - address} bytes from port ${address}`, sizeName, size);
}

function place(address: bigint, pio: boolean): string {
  return `${pio ? 'port' : 'gpa'} 0x${address.toString(16)}`;
}
