/**
 * What every method of a vCPU rests on: the native handle, the kvm_run mapping, and the bookkeeping of exits that KVM
 * has not finished yet.
 */
import { options as checkOptions, oneOf, u64 } from '../../arguments.ts';
import { RUN } from '../../abi/index.ts';
import { KvmStateError } from '../../errors.ts';
import type { NativeVcpu } from '../../native.ts';
import { ExitDecoder } from '../exits/decode.ts';
import { leavesPendingWork } from '../exits/reasons.ts';
import type { VcpuExit } from '../exits/types.ts';
import { Handle } from '../handle.ts';
import type { Vm } from '../vm/vm.ts';
import { runFailure } from './run-errors.ts';
import { SyncRegs } from './sync-regs.ts';

/** For the methods that look at the state of a vCPU. */
export interface StateOptions {
  /**
   * After a port, MMIO, MSR or hypercall exit, KVM finishes the instruction only at the next run: until then rip and
   * the destination registers are those of before. `'complete'` (the default) has KVM finish it first, with the answer
   * that is in the exit's `data` now; `'keep'` shows the state as it is, with rip at the instruction that exited.
   */
  readonly pending?: 'complete' | 'keep';
}

const PENDING_CHOICES = ['complete', 'keep'] as const;
const EINTR = -4;

export abstract class VcpuState extends Handle<NativeVcpu> {
  readonly vm: Vm;
  readonly id: number;
  /**
   * Registers in the kvm_run mapping, read and written without an ioctl. Off until {@link SyncRegs.enable}.
   */
  readonly syncRegs: SyncRegs;
  /** The whole kvm_run mapping. */
  protected readonly mapping: DataView;
  readonly #decoder: ExitDecoder;
  /** KVM still has to finish the exit that this handle returned last. */
  #pending = false;
  /** An exit that came up while an earlier one was completed, for the next run to return. */
  #kept: VcpuExit | undefined;

  protected constructor(vm: Vm, native: NativeVcpu, id: number) {
    super(`vCPU ${id}`, native, vm);
    this.vm = vm;
    this.id = id;
    const run = native.run;
    this.mapping = new DataView(run);
    this.#decoder = new ExitDecoder(run);
    this.syncRegs = new SyncRegs(run, {
      supported: () => this.vm.checkExtension('KVM_CAP_SYNC_REGS'),
      expectIdle: () => this.expectIdle(),
      settle: () => this.beforeWrite(),
      ioctl: (request, argument) => void this.ioctl(request, argument),
    });
  }

  /** True while a KVM_RUN or a pre-fault is in progress, on any thread. State calls throw ERR_KVM_RUNNING meanwhile. */
  get running(): boolean {
    return !this.closed && this.native.running;
  }

  /**
   * True when KVM has to finish the last exit before the state of the vCPU is consistent. It does so at the next run,
   * in {@link completePendingIo}, and before every method that reads or changes state.
   */
  get pendingIo(): boolean {
    return this.#pending;
  }

  /**
   * Has KVM finish the last exit, with the answer that its `data` holds now, without entering the guest. Its views are
   * not valid any more afterwards.
   *
   * @returns `'none'` where nothing was pending; `'completed'`; or `'another-exit'` when the same instruction has more
   * to ask (the next 8 bytes of a wide MMIO access, the next round of a string instruction): the next run returns that
   * exit without entering the guest. Until it is taken, methods that change state throw.
   * @throws KvmSystemError where KVM refused the answer.
   */
  completePendingIo(): 'none' | 'completed' | 'another-exit' {
    this.expectIdle();
    if (this.#kept !== undefined) return 'another-exit';
    if (!this.#pending) return 'none';
    const code = this.check(() => this.native.completePending());
    if (code === EINTR) {
      this.#pending = false;
      this.syncRegs.afterRun(true);
      return 'completed';
    }
    if (code < 0) throw runFailure(code, this.id, 'completing the last exit');
    this.#kept = this.arrived(code);
    return 'another-exit';
  }

  /** Asks for an `'irq-window-open'` exit as soon as the guest can take an interrupt. Without in-kernel APIC only. */
  get requestInterruptWindow(): boolean {
    return this.#open().getUint8(RUN.requestInterruptWindow) !== 0;
  }

  set requestInterruptWindow(value: boolean) {
    this.#open().setUint8(RUN.requestInterruptWindow, value ? 1 : 0);
  }

  /** At the last exit the guest could take an interrupt by `interrupt()`. */
  get readyForInterruptInjection(): boolean {
    return this.#open().getUint8(RUN.readyForInterruptInjection) !== 0;
  }

  /** RFLAGS.IF at the last exit. */
  get interruptFlag(): boolean {
    return this.#open().getUint8(RUN.ifFlag) !== 0;
  }

  /** KVM_RUN_X86_SMM, _BUS_LOCK and _GUEST_MODE, as of the last exit. */
  get runFlags(): number {
    return this.#open().getUint16(RUN.flags, true);
  }

  /** CR8 as of the last exit; written, it is the guest's from the next run on. Only without an in-kernel APIC. */
  get cr8(): bigint {
    return this.#open().getBigUint64(RUN.cr8, true);
  }

  set cr8(value: bigint) {
    this.#open().setBigUint64(RUN.cr8, u64('cr8', value), true);
  }

  /** The APIC base MSR as of the last exit. */
  get apicBase(): bigint {
    return this.#open().getBigUint64(RUN.apicBase, true);
  }

  /** The 256 bytes of the exit union, for exits that this version does not decode. Live until the next run. */
  get exitPayload(): Uint8Array {
    const { buffer } = this.#open();
    return new Uint8Array(buffer, RUN.exit, RUN.validRegs - RUN.exit);
  }

  /** Throws where the vCPU is closed, or runs: the kernel would make the call wait until the run is over. */
  protected expectIdle(): void {
    this.expectOpen();
    if (this.native.running) throw this.runningError();
  }

  protected runningError(): KvmStateError {
    return new KvmStateError(`vCPU ${this.id} is running: kick() it first and wait for its exit`, 'ERR_KVM_RUNNING');
  }

  /** Makes the state consistent, so that it can be read; see {@link StateOptions}. */
  protected beforeRead(options?: StateOptions): void {
    this.expectIdle();
    if (options !== undefined) {
      const { pending } = checkOptions('options', options, ['pending']);
      if (pending !== undefined && oneOf('pending', pending, PENDING_CHOICES) === 'keep') {
        this.syncRegs.flush();
        return;
      }
    }
    if (this.#pending && this.#kept === undefined) this.completePendingIo();
    this.syncRegs.flush();
  }

  /** Makes the state consistent, so that it can be changed without KVM overwriting the change. */
  protected beforeWrite(): void {
    if (this.completePendingIo() === 'another-exit') {
      throw new KvmStateError(
        `vCPU ${this.id} is in the middle of an instruction: finishing its last exit led to another one. Take that ` +
          'with a run and answer it before changing state',
      );
    }
    this.syncRegs.flush();
  }

  /** The exit behind a result of the addon that is 0 or more. */
  protected arrived(code: number): VcpuExit {
    this.#pending = leavesPendingWork(code);
    this.syncRegs.afterRun(true);
    return this.#decoder.decode(code);
  }

  /** The exit that is to be returned before anything runs. */
  protected takeKept(): VcpuExit | undefined {
    const kept = this.#kept;
    this.#kept = undefined;
    return kept;
  }

  /** One ioctl whose argument the kernel reads or fills. The state must have been made consistent before. */
  protected ioctl(request: number, argument?: number | bigint | Uint8Array, hint?: string): number {
    return this.check(() => this.native.ioctl(request, argument), { hint });
  }

  #open(): DataView {
    this.expectOpen();
    return this.mapping;
  }
}
