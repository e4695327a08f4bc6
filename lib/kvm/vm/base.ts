/** What every method of a VM rests on. */
import type { CapName } from '../../abi/index.ts';
import { KVM_CHECK_EXTENSION } from '../../abi/index.ts';
import { KvmStateError } from '../../errors.ts';
import type { WrapOptions } from '../../errors.ts';
import type { NativeVm } from '../../native.ts';
import { Handle } from '../handle.ts';
import type { Kvm } from '../kvm.ts';
import type { Vcpu } from '../vcpu/vcpu.ts';
import { capNumber } from '../caps.ts';
import type { VmTypeName } from '../vm-types.ts';
import { vmTypeName } from '../vm-types.ts';

export abstract class VmBase extends Handle<NativeVm> {
  /** KVM_X86_DEFAULT_VM and so on, as given to KVM_CREATE_VM. */
  readonly type: number;
  readonly #kvm: Kvm | undefined;
  readonly #vcpus = new Map<number, Vcpu>();
  #vcpuMade = false;

  protected constructor(native: NativeVm, type: number, kvm: Kvm | undefined) {
    super('VM', native, kvm);
    this.#kvm = kvm;
    this.type = type;
  }

  /**
   * The system handle that this VM was made by.
   *
   * @throws KvmStateError for a VM adopted from another thread, whose system handle is there.
   */
  get kvm(): Kvm {
    if (this.#kvm === undefined) throw new KvmStateError('This VM was adopted: its system handle is in another thread');
    return this.#kvm;
  }

  /** `'default'`, `'sw-protected'`, ...; `'unknown'` for a type that this version does not know. */
  get typeName(): VmTypeName | 'unknown' {
    return vmTypeName(this.type);
  }

  /** The open vCPUs that were made through this handle, by id. */
  get vcpus(): ReadonlyMap<number, Vcpu> {
    for (const [id, vcpu] of this.#vcpus) if (vcpu.closed) this.#vcpus.delete(id);
    return this.#vcpus;
  }

  /**
   * What this VM can do: 0 for "not at all", otherwise 1 or a number whose meaning the capability's documentation
   * gives. The answer depends on the type of the VM. *KVM_CHECK_EXTENSION*
   */
  checkExtension(capability: number | CapName): number {
    return this.ioctl(KVM_CHECK_EXTENSION, capNumber(capability));
  }

  protected registerVcpu(vcpu: Vcpu): void {
    this.#vcpuMade = true;
    this.#vcpus.set(vcpu.id, vcpu);
  }

  /** For what the kernel takes only before the first vCPU: it would say EINVAL, as for a dozen other causes. */
  protected expectNoVcpu(what: string): void {
    this.expectOpen();
    if (!this.#vcpuMade) return;
    throw new KvmStateError(`${what} must come before the first vCPU is made (one that was closed still counts)`);
  }

  /** One ioctl on the VM's descriptor. `state` says what was tried, `hint` the likely cause of a failure. */
  protected ioctl(request: number, argument?: number | bigint | Uint8Array, options: WrapOptions = {}): number {
    return this.check(() => this.native.ioctl(request, argument), options);
  }
}
