/** Address translation, clocks, machine checks, capabilities, attributes and statistics of a vCPU. */
import {
  bytes as checkBytes,
  options as checkOptions,
  rangeError,
  typeError,
  u32,
  u64,
  uint,
} from '../../arguments.ts';
import {
  KVM_ENABLE_CAP,
  KVM_GET_TSC_KHZ,
  KVM_KVMCLOCK_CTRL,
  KVM_SET_SIGNAL_MASK,
  KVM_SET_TSC_KHZ,
  KVM_TRANSLATE,
  KVM_X86_SET_MCE,
  KVM_X86_SETUP_MCE,
  kvmEnableCap,
  kvmTranslation,
  kvmX86Mce,
} from '../../abi/index.ts';
import type { CapName, Input } from '../../abi/index.ts';
import type { NativePointer } from '../../native.ts';
import { capNumber } from '../caps.ts';
import { Stats } from '../stats.ts';
import { VcpuNested } from './nested.ts';
import type { StateOptions } from './state.ts';

/** Where a guest virtual address is. */
export interface TranslatedAddress {
  readonly gva: bigint;
  readonly gpa: bigint;
  readonly writable: boolean;
  readonly userMode: boolean;
}

/** A command of the vendor's encryption, raw. */
export interface VcpuMemoryEncryptOp {
  /** The command struct (kvm_tdx_cmd), written back in place. */
  readonly command: Uint8Array;
  /** Where in `command` the address of `data` goes. Default: 8. */
  readonly dataAt?: number;
  /** The parameter struct, written back in place. Default: none. */
  readonly data?: Uint8Array;
  /** Pointer fields of `data`. */
  readonly pointers?: readonly NativePointer[];
}

const TSC_GROUP = 0;
const TSC_OFFSET = 0n;
const SIGNAL_MASK_BYTES = 8;

export abstract class VcpuMisc extends VcpuNested {
  /**
   * Walks the guest's page tables. Undefined where the address is not mapped. Wrong for tables in private memory: KVM
   * reads them through the shared mapping. *KVM_TRANSLATE*
   */
  translate(gva: bigint, options?: StateOptions): TranslatedAddress | undefined {
    const bytes = kvmTranslation.encode({
      linearAddress: u64('gva', gva),
      physicalAddress: 0n,
      valid: false,
      writeable: false,
      usermode: false,
    });
    this.beforeRead(options);
    this.ioctl(KVM_TRANSLATE, bytes);
    const { physicalAddress, valid, writeable, usermode } = kvmTranslation.decode(bytes);
    return valid ? { gva, gpa: physicalAddress, writable: writeable, userMode: usermode } : undefined;
  }

  /** The frequency of the guest's TSC, in kHz. Needs KVM_CAP_GET_TSC_KHZ. *KVM_GET_TSC_KHZ* */
  getTscKhz(): number {
    this.expectIdle();
    return this.ioctl(KVM_GET_TSC_KHZ, 0, 'the TSC of this host is not stable');
  }

  /** Sets it, before the first run; 0 is that of the host. Needs KVM_CAP_TSC_CONTROL. *KVM_SET_TSC_KHZ* */
  setTscKhz(khz: number): void {
    u32('khz', khz);
    this.beforeWrite();
    this.ioctl(
      KVM_SET_TSC_KHZ,
      khz,
      'the host cannot scale the TSC (KVM_CAP_TSC_CONTROL is 0) or not to this frequency',
    );
  }

  /** What is added to the host's TSC. Needs KVM_CAP_VCPU_ATTRIBUTES. *KVM_VCPU_TSC_OFFSET* */
  getTscOffset(): bigint {
    const bytes = new Uint8Array(8);
    this.getDeviceAttr(TSC_GROUP, TSC_OFFSET, bytes);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  /** Modulo 2^64. *KVM_VCPU_TSC_OFFSET* */
  setTscOffset(offset: bigint): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, u64('offset', offset), true);
    this.setDeviceAttr(TSC_GROUP, TSC_OFFSET, bytes);
  }

  /** Reads an attribute into `data`. *KVM_GET_DEVICE_ATTR* */
  getDeviceAttr(group: number, attr: bigint, data: Uint8Array): void {
    this.expectIdle();
    this.check(() => this.native.getDeviceAttr(u32('group', group), u64('attr', attr), checkBytes('data', data)));
  }

  /** Writes an attribute. *KVM_SET_DEVICE_ATTR* */
  setDeviceAttr(group: number, attr: bigint, data: Uint8Array | null = null): void {
    this.expectIdle();
    if (data !== null) checkBytes('data', data);
    this.check(() => this.native.setDeviceAttr(u32('group', group), u64('attr', attr), data));
  }

  /** Whether the vCPU has an attribute. *KVM_HAS_DEVICE_ATTR* */
  hasDeviceAttr(group: number, attr: bigint): boolean {
    this.expectIdle();
    return this.check(() => this.native.hasDeviceAttr(u32('group', group), u64('attr', attr)));
  }

  /** Tells the guest's watchdogs that it was paused. *KVM_KVMCLOCK_CTRL* */
  kvmclockCtrl(): void {
    this.beforeWrite();
    this.ioctl(KVM_KVMCLOCK_CTRL, 0, 'the guest does not use kvmclock');
  }

  /** Turns machine checks on: MCG_CAP, from what {@link Kvm.getMceCapSupported} allows. *KVM_X86_SETUP_MCE* */
  setupMce(mcgCap: bigint): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, u64('mcgCap', mcgCap), true);
    this.beforeWrite();
    this.ioctl(KVM_X86_SETUP_MCE, bytes);
  }

  /** Injects a machine check, after {@link setupMce}. *KVM_X86_SET_MCE* */
  setMce(mce: Input<typeof kvmX86Mce>): void {
    const bytes = kvmX86Mce.encode(mce);
    this.beforeWrite();
    this.ioctl(KVM_X86_SET_MCE, bytes, 'the bank does not exist, or the status has no valid bit: call setupMce first');
    this.syncRegs.invalidate();
  }

  /** Turns on a capability of this vCPU, with up to four arguments. *KVM_ENABLE_CAP* */
  enableCap(cap: number | CapName, args: readonly bigint[] = [], flags = 0): void {
    const number = capNumber(cap);
    if (!Array.isArray(args)) throw typeError('an array of bigints', 'args', args);
    if (args.length > 4) throw rangeError('at most 4 arguments', 'args', args.length);
    const all = [0, 1, 2, 3].map((index) =>
      index < args.length ? u64(`args[${index}]`, (args as readonly bigint[])[index]) : 0n,
    );
    const bytes = kvmEnableCap.encode({ cap: number, flags: u32('flags', flags), args: all });
    this.beforeWrite();
    this.ioctl(KVM_ENABLE_CAP, bytes, 'this is not a capability of vCPUs, or the arguments are not its own');
  }

  /**
   * The signals that are blocked while the vCPU runs, bit n - 1 for signal n; undefined for those of the thread. The
   * signal that kicks the vCPU must not be among them. *KVM_SET_SIGNAL_MASK*
   */
  setSignalMask(mask: bigint | undefined): void {
    this.expectIdle();
    if (mask === undefined) {
      this.ioctl(KVM_SET_SIGNAL_MASK);
      return;
    }
    const bytes = new Uint8Array(4 + SIGNAL_MASK_BYTES);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, SIGNAL_MASK_BYTES, true);
    view.setBigUint64(4, u64('mask', mask), true);
    this.ioctl(KVM_SET_SIGNAL_MASK, bytes);
  }

  /** The statistics of this vCPU, by name. Needs KVM_CAP_BINARY_STATS_FD. *KVM_GET_STATS_FD* */
  getStatsFd(): Stats {
    this.expectOpen();
    return new Stats(
      this.check(() => this.native.getStatsFd()),
      this,
    );
  }

  /** A command of TDX on this vCPU, raw. *KVM_MEMORY_ENCRYPT_OP* */
  memoryEncryptOp(op: VcpuMemoryEncryptOp): void {
    const {
      command: given,
      dataAt = 8,
      data,
      pointers = [],
    } = checkOptions('op', op, ['command', 'dataAt', 'data', 'pointers']);
    const command = checkBytes('command', given);
    if (!Array.isArray(pointers)) throw typeError('an array of pointers', 'pointers', pointers);
    if (data !== undefined) checkBytes('data', data);
    this.beforeWrite();
    this.check(() => this.native.memoryEncryptOp(command, uint('dataAt', dataAt), data ?? null, pointers));
  }
}
