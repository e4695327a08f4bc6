/** The VM: memory, interrupts and time of one virtual machine, and its vCPUs. */
import { typeError, u32 } from '../../arguments.ts';
import { native as addon } from '../../native.ts';
import type { NativeVm } from '../../native.ts';
import { make } from '../handle.ts';
import type { Kvm } from '../kvm.ts';
import { hostMemory } from '../host-memory.ts';
import type { HostMemory } from '../host-memory.ts';
import { Vcpu } from '../vcpu/vcpu.ts';
import { VmEncryption } from './encryption.ts';

/**
 * Names a VM for another thread of this process: `postMessage` it, and {@link Vm.adopt} it there. Valid as long as a
 * handle to the VM is open in any thread.
 */
export interface VmToken {
  readonly kind: 'node-kvm:vm';
  readonly type: number;
  readonly token: bigint;
}

/** A stronger kind of VM that was not taken. `createVm()` has a narrower type for it. */
export interface VmRefusal {
  readonly tier: string;
  readonly reason: string;
  /** What was tried, and how it failed. */
  readonly evidence: string;
  /** What would change that. */
  readonly remedy: string;
}

/**
 * A virtual machine, made by {@link Kvm.createVm}. Closing it closes its vCPUs, guest_memfds and devices first. The
 * kernel's VM itself is gone when all of these are closed in every thread.
 */
export class Vm extends VmEncryption {
  #selection:
    { readonly tier: string; readonly fallback: readonly VmRefusal[]; readonly ownsSystem: boolean } | undefined;

  /** @internal */
  constructor(native: NativeVm, type: number, kvm?: Kvm) {
    super(native, type, kvm);
  }

  /** Where the memory for a guest's address space comes from. */
  get hostMemory(): HostMemory {
    return hostMemory;
  }

  /**
   * Makes a vCPU. Its kvm_run is mapped once, here.
   *
   * @param id - the APIC id: below KVM_CAP_MAX_VCPU_ID of this VM, not taken. The first one made need not be 0.
   * @throws KvmSystemError EEXIST (id taken), EINVAL (id too large, or VM not ready for vCPUs), EMFILE.
   * *KVM_CREATE_VCPU*
   */
  createVcpu(id: number): Vcpu {
    u32('id', id);
    const native = this.check(() => this.native.createVcpu(id), { state: `vCPU ${id}` });
    const vcpu = new Vcpu(this, native, id);
    this.registerVcpu(vcpu);
    return vcpu;
  }

  /** A token for another thread, which can then make and run vCPUs of this VM. */
  share(): VmToken {
    this.expectOpen();
    return { kind: 'node-kvm:vm', type: this.type, token: this.native.token() };
  }

  /**
   * The VM of a token made in another thread of this process, as a handle of its own. What the other handle remembers
   * (its memslots, routes, vCPUs) is not known to this one: set memory up in one thread only.
   *
   * @throws KvmSystemError where the last handle was closed meanwhile.
   */
  static adopt(token: VmToken): Vm {
    if (typeof token !== 'object' || token === null || token.kind !== 'node-kvm:vm') {
      throw typeError('a token made by vm.share()', 'token', token);
    }
    return new Vm(
      make(() => addon().adoptVm(token.token)),
      token.type,
    );
  }

  /** Which tier this VM is, where `createVm()` chose its type; undefined for one made by {@link Kvm.createVm}. */
  get tier(): string | undefined {
    return this.#selection?.tier;
  }

  /** Why each stronger tier was refused, where `createVm()` chose. */
  get fallback(): readonly VmRefusal[] {
    return this.#selection?.fallback ?? [];
  }

  /**
   * Closes the vCPUs, guest_memfds and devices, then the VM; and the system handle, where `createVm()` opened one for
   * this VM alone. Idempotent.
   */
  override close(): void {
    const system = this.closed || this.#selection?.ownsSystem !== true ? undefined : this.kvm;
    try {
      super.close();
    } finally {
      system?.close();
    }
  }

  /** @internal `ownsSystem`: the system handle was opened for this VM, and nobody else has it. */
  attachSelection(tier: string, fallback: readonly VmRefusal[], ownsSystem: boolean): void {
    this.#selection = { tier, fallback, ownsSystem };
  }
}
