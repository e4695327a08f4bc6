/**
 * Where the private/shared attribute of a page lives, chosen by capability and never by kernel version: on the VM
 * (KVM_SET_MEMORY_ATTRIBUTES), or, as proposed for later kernels, on the guest_memfd itself.
 */
import {
  CAPS,
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  KVM_MEMORY_ATTRIBUTE_PRIVATE,
} from '../abi/index.ts';
import { KvmUnsupportedError } from '../errors.ts';
import type { Attribute } from './events.ts';
import type { AttributesRequest, VmPort } from './ports.ts';

/** The one place that asks the kernel to make pages private or shared. Ranges are in bytes, on page borders. */
export interface AttributesPort {
  /** Which descriptor takes the ioctl; `'none'`: this VM has no private memory. */
  readonly where: 'vm' | 'guest-memfd' | 'none';
  /** All or nothing. */
  set(start: number, end: number, to: Attribute): void;
  /** The same on a pool thread. */
  setAsync(start: number, end: number, to: Attribute): Promise<void>;
}

/**
 * The capability of the ioctl on the guest_memfd. It is not merged, and its number has changed from one version of the
 * proposal to the next, so there is none to ask for yet.
 */
const GUEST_MEMFD_ATTRIBUTES: number | undefined = undefined;

/** Asks the VM, since what it offers depends on its type. */
export function selectAttributesPort(vm: VmPort): AttributesPort {
  if (hasPrivate(vm, CAPS.KVM_CAP_MEMORY_ATTRIBUTES)) return new VmAttributes(vm);
  if (GUEST_MEMFD_ATTRIBUTES !== undefined && hasPrivate(vm, GUEST_MEMFD_ATTRIBUTES)) return new GuestMemfdAttributes();
  return new NoAttributes(vm);
}

function hasPrivate(vm: VmPort, capability: number): boolean {
  return (BigInt(vm.checkExtension(capability)) & KVM_MEMORY_ATTRIBUTE_PRIVATE) !== 0n;
}

/** *KVM_SET_MEMORY_ATTRIBUTES* on the VM, by gpa. */
class VmAttributes implements AttributesPort {
  readonly where = 'vm';
  readonly #vm: VmPort;

  constructor(vm: VmPort) {
    this.#vm = vm;
  }

  set(start: number, end: number, to: Attribute): void {
    this.#vm.setMemoryAttributes(request(start, end, to));
  }

  setAsync(start: number, end: number, to: Attribute): Promise<void> {
    return this.#vm.setMemoryAttributesAsync(request(start, end, to));
  }
}

function request(start: number, end: number, to: Attribute): AttributesRequest {
  const attributes = to === 'private' ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0n;
  // The engine has checked that the range is one of slots, or was until just now.
  return { address: BigInt(start), size: BigInt(end - start), attributes, allowUnbacked: true };
}

/** In place, by offset in the guest_memfd. Selected only where the capability says so, which no kernel does yet. */
class GuestMemfdAttributes implements AttributesPort {
  readonly where = 'guest-memfd';

  set(): void {
    throw new KvmUnsupportedError(
      'On this kernel the private attribute is set on the guest_memfd, by an ioctl that ' +
        'this version does not have: it was not merged when this was written',
      'memory attributes on the guest_memfd',
    );
  }

  async setAsync(): Promise<void> {
    this.set();
  }
}

class NoAttributes implements AttributesPort {
  readonly where = 'none';
  readonly #vm: VmPort;

  constructor(vm: VmPort) {
    this.#vm = vm;
  }

  set(): void {
    throw noConversion(this.#vm);
  }

  async setAsync(): Promise<void> {
    throw noConversion(this.#vm);
  }
}

/** Why nothing can be converted in this VM. */
export function noConversion(vm: VmPort): KvmUnsupportedError {
  const both = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
  const mappable = (BigInt(vm.checkExtension(CAPS.KVM_CAP_GUEST_MEMFD_FLAGS)) & both) === both;
  return new KvmUnsupportedError(
    'This VM cannot convert memory: KVM_CAP_MEMORY_ATTRIBUTES has no private attribute ' +
      'for a ' +
      'VM of its type. ' +
      (mappable
        ? 'A mapped guest_memfd is one memory that guest and host both see, so there is ' + 'nothing ' + 'to convert. '
        : '') +
      'A VM of type sw-protected, SNP or TDX has private memory',
    'KVM_CAP_MEMORY_ATTRIBUTES',
  );
}
