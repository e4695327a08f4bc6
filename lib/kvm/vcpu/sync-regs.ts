/**
 * Registers in the kvm_run mapping: KVM stores them there at every exit and loads what was changed at the next run, so
 * that no ioctl is needed in between. *KVM_CAP_SYNC_REGS, struct kvm_sync_regs*
 */
import { oneOf, u64 } from '../../arguments.ts';
import {
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GET_VCPU_EVENTS,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_VCPU_EVENTS,
  kvmRegs,
  kvmSregs,
  kvmVcpuEvents,
} from '../../abi/index.ts';
import type { Decoded, Input } from '../../abi/index.ts';
import { KvmStateError, KvmUnsupportedError } from '../../errors.ts';

/** A class of registers that KVM can keep in the mapping. */
export type SyncRegsClass = 'regs' | 'sregs' | 'events';

type Regs = Decoded<typeof kvmRegs>;
type Sregs = Decoded<typeof kvmSregs>;
type VcpuEvents = Decoded<typeof kvmVcpuEvents>;

/** The name of a general-purpose register, rip or rflags. */
export type RegisterName = keyof Regs;

/** @internal What the registers need from their vCPU. */
export interface SyncRegsHost {
  /** The mask of KVM_CAP_SYNC_REGS of the VM. */
  supported(): number;
  /** Throws where the vCPU is closed or running. */
  expectIdle(): void;
  /** The same, and completes what is pending: registers are going to change. */
  settle(): void;
  ioctl(request: number, argument: Uint8Array): void;
}

const VALID_AT = 288;
const DIRTY_AT = 296;

interface Area {
  readonly name: SyncRegsClass;
  readonly bit: number;
  readonly at: number;
  readonly size: number;
  readonly get: number;
  readonly set: number;
}

const AREAS: Readonly<Record<SyncRegsClass, Area>> = {
  regs: { name: 'regs', bit: 1, at: 304, size: 144, get: KVM_GET_REGS, set: KVM_SET_REGS },
  sregs: { name: 'sregs', bit: 2, at: 448, size: 312, get: KVM_GET_SREGS, set: KVM_SET_SREGS },
  events: { name: 'events', bit: 4, at: 760, size: 64, get: KVM_GET_VCPU_EVENTS, set: KVM_SET_VCPU_EVENTS },
};
const NAMES = Object.keys(AREAS) as SyncRegsClass[];

/**
 * `vcpu.syncRegs`. Enable the classes you need, then read and write them between runs at the price of a memory access.
 *
 * It is coherent with the methods that use ioctls, in both directions: what was written here reaches the vCPU before
 * any ioctl that reads or changes its state, and after such a change the next read here fetches it once by ioctl.
 *
 * Reading shows the state at the exit, and completes nothing: after a port read, rip still points at the instruction.
 * Writing completes the exit first, as every change of state does.
 *
 * Needs KVM_CAP_SYNC_REGS on the VM (0 for SEV-ES, SNP and TDX guests, whose registers are not for the host).
 */
export class SyncRegs {
  readonly #host: SyncRegsHost;
  readonly #bytes: Uint8Array;
  readonly #fields: DataView;
  #enabled = 0;
  /** Classes whose bytes in the mapping are those of the vCPU. */
  #fresh = 0;
  /** Classes whose bytes in the mapping are newer than those of the vCPU. */
  #dirty = 0;

  /** @internal */
  constructor(run: ArrayBuffer, host: SyncRegsHost) {
    this.#host = host;
    this.#bytes = new Uint8Array(run);
    this.#fields = new DataView(run);
  }

  /** The classes that are on. */
  get enabled(): readonly SyncRegsClass[] {
    return NAMES.filter((name) => (this.#enabled & AREAS[name].bit) !== 0);
  }

  /**
   * Has KVM store these classes at every exit from the next run on. Those that were on stay on.
   *
   * @throws KvmUnsupportedError where KVM_CAP_SYNC_REGS of the VM lacks one of them.
   */
  enable(...classes: SyncRegsClass[]): void {
    let mask = this.#enabled;
    for (const name of classes) mask |= AREAS[oneOf('class', name, NAMES)].bit;
    const missing = mask & ~this.#host.supported();
    if (missing !== 0) {
      const names = NAMES.filter((name) => (AREAS[name].bit & missing) !== 0).join(', ');
      throw new KvmUnsupportedError(
        `This VM does not offer sync registers for ${names}: KVM_CAP_SYNC_REGS is ${this.#host.supported()}. ` +
          'Guests with protected register state have none, and nor have kernels before 4.17.',
        'KVM_CAP_SYNC_REGS',
      );
    }
    this.#host.expectIdle();
    this.#setEnabled(mask);
  }

  /** Stops it for these classes, or for all. What was written and not run yet reaches the vCPU first. */
  disable(...classes: SyncRegsClass[]): void {
    this.#host.settle();
    this.flush();
    let mask = classes.length === 0 ? 0 : this.#enabled;
    for (const name of classes) mask &= ~AREAS[oneOf('class', name, NAMES)].bit;
    this.#setEnabled(mask);
  }

  /** The general registers, decoded. *struct kvm_regs* */
  get regs(): Regs {
    return kvmRegs.decode(this.#fields, this.#ready(AREAS.regs));
  }

  set regs(value: Input<typeof kvmRegs>) {
    const at = this.#writable(AREAS.regs);
    kvmRegs.encode(value, this.#bytes, at);
    this.#markDirty(AREAS.regs);
  }

  /** The special registers, decoded. *struct kvm_sregs* */
  get sregs(): Sregs {
    return kvmSregs.decode(this.#fields, this.#ready(AREAS.sregs));
  }

  set sregs(value: Input<typeof kvmSregs>) {
    const at = this.#writable(AREAS.sregs);
    kvmSregs.encode(value, this.#bytes, at);
    this.#markDirty(AREAS.sregs);
  }

  /** Pending exceptions, interrupts and NMIs, decoded. *struct kvm_vcpu_events* */
  get events(): VcpuEvents {
    return kvmVcpuEvents.decode(this.#fields, this.#ready(AREAS.events));
  }

  set events(value: Input<typeof kvmVcpuEvents>) {
    const at = this.#writable(AREAS.events);
    kvmVcpuEvents.encode(value, this.#bytes, at);
    this.#markDirty(AREAS.events);
  }

  /** One register, without decoding the others. Needs the class `'regs'`. */
  get(register: RegisterName): bigint {
    const field = kvmRegs.fields[oneOf('register', register, REGISTER_NAMES)];
    return this.#fields.getBigUint64(this.#ready(AREAS.regs) + field.offset, true);
  }

  /** Changes one register, with effect from the next run. Needs the class `'regs'`. */
  set(register: RegisterName, value: bigint): void {
    const field = kvmRegs.fields[oneOf('register', register, REGISTER_NAMES)];
    u64(register, value);
    // The others of the class go to the vCPU with it, so they have to be its own.
    this.#writable(AREAS.regs);
    const at = this.#ready(AREAS.regs);
    this.#fields.setBigUint64(at + field.offset, value, true);
    this.#markDirty(AREAS.regs);
  }

  /** @internal A run is over. `entered` where it is certain that KVM stored the registers. */
  afterRun(entered: boolean): void {
    if (this.#enabled === 0) return;
    if (this.#dirty !== 0) this.#dirty = this.#fields.getUint32(DIRTY_AT, true);
    this.#fresh = entered ? this.#enabled : 0;
  }

  /** @internal Writes to the vCPU what so far is only in the mapping. */
  flush(): void {
    if (this.#dirty === 0) return;
    for (const name of NAMES) {
      const { bit, at, size, set } = AREAS[name];
      if ((this.#dirty & bit) === 0) continue;
      this.#host.ioctl(set, this.#bytes.slice(at, at + size));
      this.#dirty &= ~bit;
      this.#fields.setUint32(DIRTY_AT, this.#dirty, true);
      this.#fresh |= bit;
    }
  }

  /** @internal The state of the vCPU was changed behind the mapping. */
  invalidate(): void {
    this.#fresh = 0;
  }

  #setEnabled(mask: number): void {
    this.#enabled = mask;
    this.#fresh &= mask;
    this.#fields.setBigUint64(VALID_AT, BigInt(mask), true);
  }

  /** Where the class starts in the mapping, once its bytes are those of the vCPU. */
  #ready(area: Area): number {
    this.#check(area);
    if (((this.#fresh | this.#dirty) & area.bit) === 0) {
      const current = new Uint8Array(area.size);
      this.#host.ioctl(area.get, current);
      this.#bytes.set(current, area.at);
      this.#fresh |= area.bit;
    }
    return area.at;
  }

  #writable(area: Area): number {
    this.#check(area);
    // KVM finishes a pending exit after it has loaded the registers, and would overwrite them.
    this.#host.settle();
    return area.at;
  }

  #markDirty(area: Area): void {
    this.#dirty |= area.bit;
    this.#fields.setUint32(DIRTY_AT, this.#dirty, true);
  }

  #check(area: Area): void {
    this.#host.expectIdle();
    if ((this.#enabled & area.bit) === 0) {
      throw new KvmStateError(
        `Sync registers of class '${area.name}' are not enabled: call syncRegs.enable('${area.name}')`,
      );
    }
  }
}

const REGISTER_NAMES = Object.keys(kvmRegs.fields) as RegisterName[];
