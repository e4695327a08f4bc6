/** A device that the kernel emulates or connects for a VM, such as KVM_DEV_TYPE_VFIO. *KVM_CREATE_DEVICE* */
import { bytes as checkBytes, u32, u64 } from '../arguments.ts';
import type { NativeDevice, NativeFile } from '../native.ts';
import { Handle } from './handle.ts';

/** Made by {@link Vm.createDevice}. All that a device has are attributes, in groups. Closed with its VM. */
export class Device extends Handle<NativeDevice> {
  /** KVM_DEV_TYPE_*. */
  readonly type: number;

  /** @internal */
  constructor(native: NativeDevice, type: number, parent: Handle<NativeFile>) {
    super(`device of type ${type}`, native, parent);
    this.type = type;
  }

  /**
   * Reads an attribute into `data`, whose size the attribute gives: at most 64 KiB.
   *
   * @throws KvmSystemError ENXIO (no such group or attribute), EPERM (its attributes cannot be read), and what the
   * device adds. *KVM_GET_DEVICE_ATTR*
   */
  getDeviceAttr(group: number, attr: bigint, data: Uint8Array): void {
    u32('group', group);
    u64('attr', attr);
    checkBytes('data', data);
    this.check(() => this.native.getDeviceAttr(group, attr, data), attribute(group, attr));
  }

  /**
   * Writes an attribute. Without `data`, for attributes whose address the kernel does not look at.
   *
   * @throws KvmSystemError ENXIO (no such group or attribute), and what the device adds. *KVM_SET_DEVICE_ATTR*
   */
  setDeviceAttr(group: number, attr: bigint, data: Uint8Array | null = null): void {
    u32('group', group);
    u64('attr', attr);
    if (data !== null) checkBytes('data', data);
    this.check(() => this.native.setDeviceAttr(group, attr, data), attribute(group, attr));
  }

  /** Whether the device has this attribute. *KVM_HAS_DEVICE_ATTR* */
  hasDeviceAttr(group: number, attr: bigint): boolean {
    u32('group', group);
    u64('attr', attr);
    return this.check(() => this.native.hasDeviceAttr(group, attr), attribute(group, attr));
  }
}

function attribute(group: number, attr: bigint): { state: string; hint: string } {
  return {
    state: `group ${group}, attribute ${attr}`,
    hint: 'the device has no such attribute (hasDeviceAttr tells), or the data does not have the size it asks for',
  };
}
