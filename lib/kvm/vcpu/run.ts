/** Running the guest: in this thread, as a promise on the vCPU's own thread, or as a loop. *KVM_RUN* */
import { RUN } from '../../abi/index.ts';
import { options as checkOptions } from '../../arguments.ts';
import { KvmStateError } from '../../errors.ts';
import { native as addon } from '../../native.ts';
import type { NativeVcpu } from '../../native.ts';
import type { InterruptCause, InterruptedExit, VcpuExit } from '../exits/types.ts';
import type { Vm } from '../vm/vm.ts';
import { VcpuMisc } from './misc.ts';
import { runFailure } from './run-errors.ts';
import { checkRunOptions, checkRunSyncOptions, checkSignal, MAX_TIMER_MS } from './run-options.ts';
import type { ExitsOptions, RunOptions, RunSyncOptions } from './run-options.ts';

const EINTR = -4;
const EAGAIN = -11;
/** The vCPUs with a command in progress: whoever waits for the promise need not hold the vCPU. */
const busy = new Set<object>();

// Bits of interruptCause.
const BY_KICK = 1;
const BY_TIMEOUT = 2;
const BY_CLOSING = 8;

/** Who is waiting for the command that the vCPU's thread executes. */
interface Waiter {
  resolve(exit: VcpuExit): void;
  reject(reason: unknown): void;
  signal: AbortSignal | undefined;
  onAbort: (() => void) | undefined;
  timer: NodeJS.Timeout | undefined;
  aborted: boolean;
  timedOut: boolean;
}

export abstract class VcpuRun extends VcpuMisc {
  readonly #runVcpu = addon().runVcpu;
  readonly #runSlot: number;
  #waiter: Waiter | undefined;
  #listening = false;
  /** The command on the vCPU's thread that is not a run. */
  #otherCommand: ((code: number) => void) | undefined;

  protected constructor(vm: Vm, native: NativeVcpu, id: number) {
    super(vm, native, id);
    this.#runSlot = native.runSlot;
  }

  /**
   * Runs the guest in the calling thread until its next exit. Nothing else happens in this thread meanwhile, so it is
   * for worker threads with a loop of their own, and for guests that exit soon. {@link kick} from another thread (see
   * {@link Vcpu.share}), `timeoutMs`, or a signal to the process that this thread gets end it with an `'interrupted'`
   * exit.
   *
   * *KVM_RUN*
   *
   * @throws KvmStateError `ERR_KVM_RUNNING` where the vCPU runs already, `ERR_KVM_CLOSED` after close.
   * @throws KvmSystemError for a failure that is not an exit: EIO says that the VM is dead.
   */
  runSync(options?: RunSyncOptions): VcpuExit {
    const timeoutMs = options === undefined ? -1 : checkRunSyncOptions(options);
    this.expectOpen();
    if (this.#waiter !== undefined) throw this.runningError();
    const kept = this.takeKept();
    if (kept !== undefined) return kept;
    let code = options === undefined ? this.#enter() : this.#runHere(timeoutMs);
    if (code === EAGAIN) code = this.#runHereAgain(timeoutMs);
    if (code >= 0) return this.arrived(code);
    if (code === EINTR) return this.#interrupted(code);
    this.syncRegs.afterRun(false);
    throw runFailure(code, this.id);
  }

  /**
   * Runs the guest on the vCPU's own thread until its next exit; the event loop stays free (and alive) meanwhile. The
   * thread is made at the first call and ends with {@link close}.
   *
   * Rejects with `signal.reason` when the signal aborts, at once and without running if it has before. An exit that was
   * faster than the abort, the time-out or a kick is returned all the same: none is ever lost.
   *
   * *KVM_RUN*
   *
   * @returns a promise that rejects with KvmStateError `ERR_KVM_RUNNING` where the vCPU runs already, `ERR_KVM_CLOSED`
   * when it is closed, also while it runs, and with KvmSystemError for a failure that is not an exit.
   */
  run(options?: RunOptions): Promise<VcpuExit> {
    if (options === undefined) return this.#start(-1, undefined);
    try {
      const { timeoutMs, signal } = checkRunOptions(options);
      return this.#start(timeoutMs, signal);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * One run after the other: `for await (const exit of vcpu.exits())`. Answer an exit in the body of the loop; the next
   * run begins when the body is done. Leaving the loop leaves the vCPU stopped at that exit. `'interrupted'` exits (by
   * {@link kick}, say) are delivered like any other. It ends when the vCPU is closed, and throws `signal.reason` when
   * the signal aborts.
   *
   * Calling `return()` on the generator while a run is in progress kicks it; the exit is delivered to whoever waits for
   * `next()`.
   */
  exits(options?: ExitsOptions): AsyncGenerator<VcpuExit, void, undefined> {
    const signal = options === undefined ? undefined : checkSignal(checkOptions('options', options, ['signal']).signal);
    this.expectOpen();
    const generator = this.#loop(signal);
    const finish = generator.return.bind(generator);
    generator.return = (value) => {
      if (this.#waiter !== undefined && !this.closed) this.native.kick(false);
      return finish(value);
    };
    return generator;
  }

  /**
   * Ends the run in progress with `{ reason: 'interrupted', cause: 'kick' }`; where there is none, or the guest exits by
   * itself in the same moment, the next one ends so before it enters the guest: one kick, or several before it is seen,
   * give exactly one such exit. May be called from any thread's handle, see {@link Vcpu.share}.
   *
   * @throws KvmStateError `ERR_KVM_CLOSED` after close.
   */
  kick(): void {
    this.expectOpen();
    this.check(() => this.native.kick(true));
  }

  /** Stops the vCPU and frees what it holds. A run in progress rejects with ERR_KVM_CLOSED. Idempotent. */
  override close(): void {
    try {
      super.close();
    } finally {
      busy.delete(this);
      this.#takeWaiter()?.reject(this.#closedError());
      const other = this.#otherCommand;
      this.#otherCommand = undefined;
      other?.(EINTR);
    }
  }

  /** @internal Only the run of this handle: one in another thread is not this handle's to end. */
  override stopRuns(): void {
    super.stopRuns();
    if (this.#waiter !== undefined) this.#stop(this.#waiter);
  }

  /** Executes another command than a run on the vCPU's thread; resolves with its result. */
  protected command(start: () => void): Promise<number> {
    this.expectIdle();
    this.#listen();
    return new Promise((resolve, reject) => {
      this.check(start);
      busy.add(this);
      this.#otherCommand = (code) => (this.closed ? reject(this.#closedError()) : resolve(code));
    });
  }

  /** The hot path: without a time-out, and without a number made of each result. */
  #enter(): number {
    try {
      return this.#runVcpu(this.#runSlot) ?? this.mapping.getUint32(RUN.exitReason, true);
    } catch (error) {
      throw this.wrap(error);
    }
  }

  #runHere(timeoutMs: number): number {
    try {
      return this.native.runSync(timeoutMs);
    } catch (error) {
      throw this.wrap(error);
    }
  }

  /** EAGAIN: an application processor was woken by its INIT or SIPI, and has to be run again. */
  #runHereAgain(timeoutMs: number): number {
    const end = performance.now() + timeoutMs;
    let code = EAGAIN;
    while (code === EAGAIN) code = this.#runHere(timeoutMs < 0 ? -1 : Math.max(0, end - performance.now()));
    return code;
  }

  #start(timeoutMs: number, signal: AbortSignal | undefined): Promise<VcpuExit> {
    if (this.closed) return Promise.reject(this.#closedError());
    if (this.#waiter !== undefined || this.#otherCommand !== undefined) return Promise.reject(this.runningError());
    if (signal?.aborted === true) return Promise.reject(signal.reason);
    const kept = this.takeKept();
    if (kept !== undefined) return Promise.resolve(kept);
    return new Promise((resolve, reject) => {
      try {
        if (!this.#listening) this.#listen();
        this.native.startRun();
        busy.add(this);
      } catch (error) {
        reject(this.wrap(error));
        return;
      }
      const waiter: Waiter = {
        resolve,
        reject,
        signal,
        onAbort: undefined,
        timer: undefined,
        aborted: false,
        timedOut: false,
      };
      this.#waiter = waiter;
      if (timeoutMs >= 0) this.#armTimer(waiter, timeoutMs);
      if (signal !== undefined) {
        waiter.onAbort = () => {
          waiter.aborted = true;
          this.#stop(waiter);
        };
        signal.addEventListener('abort', waiter.onAbort, { once: true });
      }
    });
  }

  #armTimer(waiter: Waiter, timeoutMs: number): void {
    const delay = Math.min(timeoutMs, MAX_TIMER_MS);
    waiter.timer = setTimeout(() => {
      if (timeoutMs > delay) {
        this.#armTimer(waiter, timeoutMs - delay);
        return;
      }
      waiter.timedOut = true;
      this.#stop(waiter);
    }, delay);
  }

  /** Ends this run and no other. */
  #stop(waiter: Waiter): void {
    if (this.#waiter === waiter && !this.closed) this.native.stop();
  }

  #listen(): void {
    if (this.#listening) return;
    // The addon keeps the callback as long as the vCPU: were it to keep this object too, neither would ever be collected.
    const self = new WeakRef(this);
    this.native.onComplete((code) => {
      const vcpu = self.deref();
      if (vcpu === undefined) return;
      busy.delete(vcpu);
      vcpu.#completed(code);
    });
    this.#listening = true;
  }

  #completed(code: number): void {
    if (this.#waiter === undefined) {
      const other = this.#otherCommand;
      this.#otherCommand = undefined;
      other?.(code);
      return;
    }
    if (code === EAGAIN && this.#goesOn(this.#waiter)) return;
    const waiter = this.#takeWaiter()!;
    try {
      if (code >= 0) {
        waiter.resolve(this.arrived(code));
      } else if (code === EINTR || code === EAGAIN) {
        const exit = this.#interrupted(code);
        if (!waiter.aborted) return waiter.resolve(exit);
        // Ended for both: the kick is still to be seen.
        if (exit.cause === 'kick') this.native.kick(true);
        waiter.reject(waiter.signal!.reason);
      } else {
        this.syncRegs.afterRun(false);
        waiter.reject(runFailure(code, this.id));
      }
    } catch (error) {
      waiter.reject(error);
    }
  }

  /** Runs again after an EAGAIN, unless somebody wanted the run to end meanwhile. True where it does. */
  #goesOn(waiter: Waiter): boolean {
    if (waiter.aborted || waiter.timedOut || this.closed) return false;
    try {
      this.native.startRun();
      busy.add(this);
      return true;
    } catch {
      return false;
    }
  }

  #takeWaiter(): Waiter | undefined {
    const waiter = this.#waiter;
    if (waiter === undefined) return undefined;
    this.#waiter = undefined;
    if (waiter.timer !== undefined) clearTimeout(waiter.timer);
    if (waiter.onAbort !== undefined) waiter.signal!.removeEventListener('abort', waiter.onAbort);
    return waiter;
  }

  #interrupted(code: number): InterruptedExit {
    this.syncRegs.afterRun(false);
    if (this.closed) throw this.#closedError();
    // EAGAIN: the time-out or the abort came between two runs.
    const bits = code === EAGAIN ? BY_TIMEOUT : this.native.interruptCause;
    if ((bits & BY_CLOSING) !== 0) throw this.#closedError();
    let cause: InterruptCause = 'signal';
    if ((bits & BY_KICK) !== 0) cause = 'kick';
    else if ((bits & BY_TIMEOUT) !== 0) cause = 'timeout';
    return { reason: 'interrupted', cause };
  }

  async *#loop(signal: AbortSignal | undefined): AsyncGenerator<VcpuExit, void, undefined> {
    while (!this.closed) {
      let exit: VcpuExit;
      try {
        exit = await this.#start(-1, signal);
      } catch (error) {
        if (this.closed && error instanceof KvmStateError && error.code === 'ERR_KVM_CLOSED') return;
        throw error;
      }
      yield exit;
    }
  }

  #closedError(): KvmStateError {
    return new KvmStateError(`vCPU ${this.id} is closed`, 'ERR_KVM_CLOSED');
  }
}
