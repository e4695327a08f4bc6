/** The vCPU: one virtual processor of a VM. */
import { typeError, u32 } from '../../arguments.ts';
import { wrapSystemError } from '../../errors.ts';
import { native as addon } from '../../native.ts';
import type { NativeVcpu, NativeVm } from '../../native.ts';
import { expectNative } from '../handle.ts';
import type { Vm } from '../vm/vm.ts';
import { VcpuPreFault } from './prefault.ts';

/**
 * Names a vCPU for another thread of this process: `postMessage` it, and {@link Vcpu.adopt} it there. Valid as long as
 * a handle to the vCPU is open in any thread.
 */
export interface VcpuToken {
  readonly kind: 'node-kvm:vcpu';
  readonly id: number;
  readonly token: bigint;
}

/**
 * A virtual processor, made by {@link Vm.createVcpu}.
 *
 * Its state can be read and changed while it does not run; while it does, those calls throw `ERR_KVM_RUNNING` at once
 * instead of waiting as the kernel would. {@link Vcpu.kick} and `running` may be used at any time.
 *
 * After a port, MMIO, MSR or hypercall exit, KVM finishes the instruction at the next run. Methods that read or change
 * state have it finished first (see {@link StateOptions} and {@link Vcpu.completePendingIo}), so answer an exit before
 * calling them.
 */
export class Vcpu extends VcpuPreFault {
  /** @internal */
  constructor(vm: Vm, native: NativeVcpu, id: number) {
    super(vm, native, id);
  }

  /** A token for another thread, which can then kick this vCPU, look at it while it is stopped, or run it. */
  share(): VcpuToken {
    this.expectOpen();
    return { kind: 'node-kvm:vcpu', id: this.id, token: this.native.token() };
  }

  /**
   * The vCPU of a token made in another thread of this process, as a handle of its own: the vCPU lives until all of its
   * handles are closed. `vm` is this thread's handle to its VM, and closes it.
   *
   * Which exit is unfinished is known to the handle that ran the vCPU: have that one complete it before another handle
   * changes state.
   *
   * @throws KvmSystemError where the last handle was closed meanwhile.
   */
  static adopt(token: VcpuToken, vm: Vm): Vcpu {
    if (typeof token !== 'object' || token === null || token.kind !== 'node-kvm:vcpu') {
      throw typeError('a token made by vcpu.share()', 'token', token);
    }
    u32('token.id', token.id);
    expectNative<NativeVm>('createVcpu', 'a Vm', 'vm', vm);
    try {
      return new Vcpu(vm, addon().adoptVcpu(token.token), token.id);
    } catch (error) {
      throw wrapSystemError(error, { message: `Adopting vCPU ${token.id}` });
    }
  }
}
