/** General, segment and control registers. */
import { options as checkOptions } from '../../arguments.ts';
import {
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GET_SREGS2,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_SREGS2,
  kvmRegs,
  kvmSregs,
  kvmSregs2,
} from '../../abi/index.ts';
import type { Input, Regs, Sregs, Sregs2 } from '../../abi/index.ts';
import type { StateOptions } from './state.ts';
import { VcpuState } from './state.ts';

const REFUSED_SREGS =
  'the registers contradict each other (CR0.PG without the EFER and CR4 bits that go with it, for instance), or hold ' +
  'bits that the CPUID of this vCPU does not have: set CPUID first. The vCPU of an encrypted guest has no registers ' +
  'for the host';

export abstract class VcpuRegisters extends VcpuState {
  // Read and written often, and never kept: one buffer for each direction is enough.
  readonly #regs = new Uint8Array(kvmRegs.size);
  readonly #sregs = new Uint8Array(kvmSregs.size);

  /** The general registers, rip and rflags. *KVM_GET_REGS* */
  getRegs(options?: StateOptions): Regs {
    this.beforeRead(options);
    this.ioctl(KVM_GET_REGS, this.#regs);
    return kvmRegs.decode(this.#regs);
  }

  /** Sets all of them; {@link updateRegs} takes some. *KVM_SET_REGS* */
  setRegs(regs: Input<typeof kvmRegs>): void {
    kvmRegs.encode(regs, this.#regs);
    this.beforeWrite();
    this.#setRegs();
  }

  /** Changes the registers given and leaves the others: two ioctls. */
  updateRegs(changes: Partial<Input<typeof kvmRegs>>): void {
    // Checked before the kernel is asked for anything.
    checkOptions('regs', changes, Object.keys(kvmRegs.fields) as never[]);
    kvmRegs.update(new Uint8Array(kvmRegs.size), changes);
    this.beforeWrite();
    this.ioctl(KVM_GET_REGS, this.#regs);
    kvmRegs.update(this.#regs, changes);
    this.#setRegs();
  }

  /** Segment and control registers, EFER, the APIC base. *KVM_GET_SREGS* */
  getSregs(options?: StateOptions): Sregs {
    this.beforeRead(options);
    this.ioctl(KVM_GET_SREGS, this.#sregs);
    return kvmSregs.decode(this.#sregs);
  }

  /**
   * Sets all of them. A bit in `interruptBitmap` injects that interrupt, where there is no irqchip in the kernel.
   * *KVM_SET_SREGS*
   */
  setSregs(sregs: Input<typeof kvmSregs>): void {
    kvmSregs.encode(sregs, this.#sregs);
    this.beforeWrite();
    this.#setSregs();
  }

  /** Changes the registers given and leaves the others: two ioctls. A segment is given whole. */
  updateSregs(changes: Partial<Input<typeof kvmSregs>>): void {
    checkOptions('sregs', changes, Object.keys(kvmSregs.fields) as never[]);
    kvmSregs.update(new Uint8Array(kvmSregs.size), changes);
    this.beforeWrite();
    this.ioctl(KVM_GET_SREGS, this.#sregs);
    kvmSregs.update(this.#sregs, changes);
    this.#setSregs();
  }

  /**
   * The same as {@link getSregs} with the page-directory pointers of PAE paging, without the interrupt bitmap. Needs
   * KVM_CAP_SREGS2. *KVM_GET_SREGS2*
   */
  getSregs2(options?: StateOptions): Sregs2 {
    this.beforeRead(options);
    const bytes = new Uint8Array(kvmSregs2.size);
    this.ioctl(KVM_GET_SREGS2, bytes);
    return kvmSregs2.decode(bytes);
  }

  /** *KVM_SET_SREGS2* */
  setSregs2(sregs: Input<typeof kvmSregs2>): void {
    const bytes = kvmSregs2.encode(sregs);
    this.beforeWrite();
    this.ioctl(KVM_SET_SREGS2, bytes, REFUSED_SREGS);
    this.syncRegs.invalidate();
  }

  #setRegs(): void {
    this.ioctl(KVM_SET_REGS, this.#regs, 'the vCPU of an encrypted guest has no registers for the host');
    this.syncRegs.invalidate();
  }

  #setSregs(): void {
    this.ioctl(KVM_SET_SREGS, this.#sregs, REFUSED_SREGS);
    this.syncRegs.invalidate();
  }
}
