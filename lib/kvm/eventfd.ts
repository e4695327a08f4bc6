/** A counter of the kernel that signals: KVM writes to it for a guest's access, or reads it to raise an interrupt. */
import { boolean, options as checkOptions, rangeError, typeError, u32, u64, uint } from '../arguments.ts';
import { KvmError, KvmStateError } from '../errors.ts';
import { native as addon } from '../native.ts';
import type { NativeEventfd } from '../native.ts';
import { Handle, make } from './handle.ts';
import { MAX_TIMER_MS, checkSignal, checkTimeout } from './vcpu/run-options.ts';

/** Names an eventfd for another thread of this process: `postMessage` it, and {@link Eventfd.adopt} it there. */
export interface EventfdToken {
  readonly kind: 'node-kvm:eventfd';
  readonly semaphore: boolean;
  readonly token: bigint;
}

/** How an eventfd counts. */
export interface EventfdOptions {
  /** What the counter begins with, below 2^32. Default: 0. */
  readonly initial?: number;
  /** Each read takes 1 instead of all. Default: false. */
  readonly semaphore?: boolean;
}

/** What ends a wait early. */
export interface WaitOptions {
  /** Aborting it rejects the wait with `signal.reason`. */
  readonly signal?: AbortSignal;
  /** The wait rejects with code `ERR_KVM_TIMEOUT` after so many milliseconds. Default: Infinity. */
  readonly timeoutMs?: number;
}

/** One who waits, in the order of the calls. */
interface Waiter {
  readonly resolve: (value: bigint) => void;
  readonly reject: (reason: unknown) => void;
}

/** The counter's largest value is 2^64 - 2. */
const MAX_COUNT = 0xffff_ffff_ffff_fffen;

/**
 * An eventfd that never blocks. Give it to {@link Vm.irqfd} or {@link Vm.ioeventfd}, which refer to the kernel's object
 * and not to this handle: closing it does not take the assignment back, but what the guest signals is then lost.
 */
export class Eventfd extends Handle<NativeEventfd> {
  readonly semaphore: boolean;
  readonly #waiters = new Set<Waiter>();
  #polling = false;

  private constructor(native: NativeEventfd, semaphore: boolean) {
    super('eventfd', native);
    this.semaphore = semaphore;
  }

  /** @throws KvmSystemError EMFILE, ENFILE (too many descriptors). */
  static create(options?: EventfdOptions): Eventfd {
    const { initial = 0, semaphore = false } = checkOptions('options', options, ['initial', 'semaphore']);
    u32('initial', initial);
    boolean('semaphore', semaphore);
    return new Eventfd(
      make(() => addon().createEventfd(initial, semaphore)),
      semaphore,
    );
  }

  /**
   * The eventfd of a token made in another thread of this process, as a handle of its own. A value goes to one reader,
   * in whichever thread.
   *
   * @throws KvmSystemError where the last handle was closed meanwhile.
   */
  static adopt(token: EventfdToken): Eventfd {
    if (typeof token !== 'object' || token === null || token.kind !== 'node-kvm:eventfd') {
      throw typeError('a token made by eventfd.share()', 'token', token);
    }
    return new Eventfd(
      make(() => addon().adoptEventfd(token.token)),
      token.semaphore,
    );
  }

  /** A token for another thread, valid as long as a handle is open in any thread. */
  share(): EventfdToken {
    this.expectOpen();
    return { kind: 'node-kvm:eventfd', semaphore: this.semaphore, token: this.native.token() };
  }

  /**
   * Adds `value` (up to 2^64 - 2) to the counter. Never waits.
   *
   * @returns false where the counter would go beyond 2^64 - 2: then it stays as it is.
   */
  write(value: bigint | number = 1n): boolean {
    const count = typeof value === 'number' ? BigInt(uint('value', value)) : u64('value', value);
    if (count > MAX_COUNT) throw rangeError('at most 2^64 - 2', 'value', value);
    return this.check(() => this.native.write(count));
  }

  /** Takes the counter, or 1 in semaphore mode; undefined where it is 0. Never waits, and overtakes those who wait. */
  read(): bigint | undefined {
    return this.check(() => this.native.read());
  }

  /**
   * What {@link read} gives, as soon as it is not 0. Several may wait: each value goes to one of them, in their order.
   * Keeps the event loop alive meanwhile.
   *
   * @throws KvmStateError ERR_KVM_CLOSED when closed meanwhile; KvmError ERR_KVM_TIMEOUT; `signal.reason`.
   */
  async wait(options?: WaitOptions): Promise<bigint> {
    const given = checkOptions('options', options, ['signal', 'timeoutMs']);
    const signal = checkSignal(given.signal);
    const timeoutMs = checkTimeout(given.timeoutMs);
    this.expectOpen();
    signal?.throwIfAborted();
    if (this.#waiters.size === 0) {
      const value = this.read();
      if (value !== undefined) return value;
    }
    return this.#enqueue(signal, timeoutMs);
  }

  /** Each value as it comes, until the eventfd is closed. A value that nobody takes stays in the counter. */
  async *[Symbol.asyncIterator](): AsyncGenerator<bigint, void, undefined> {
    while (!this.closed) {
      let value: bigint;
      try {
        value = await this.wait();
      } catch (error) {
        if (this.closed && error instanceof KvmStateError) return;
        throw error;
      }
      yield value;
    }
  }

  /** Rejects those who wait with ERR_KVM_CLOSED. Idempotent. */
  override close(): void {
    try {
      super.close();
    } finally {
      this.#rejectAll(() => new KvmStateError('The eventfd was closed while waiting for it', 'ERR_KVM_CLOSED'));
    }
  }

  #enqueue(signal: AbortSignal | undefined, timeoutMs: number): Promise<bigint> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      const leave = (): void => {
        this.#waiters.delete(waiter);
        signal?.removeEventListener('abort', onAbort);
        clearTimeout(timer);
        if (this.#waiters.size === 0) this.#stopPolling();
      };
      const waiter: Waiter = {
        resolve: (value) => (leave(), resolve(value)),
        reject: (reason) => (leave(), reject(reason)),
      };
      const onAbort = (): void => waiter.reject(signal?.reason);
      this.#waiters.add(waiter);
      signal?.addEventListener('abort', onAbort, { once: true });
      if (timeoutMs >= 0 && timeoutMs <= MAX_TIMER_MS) {
        timer = setTimeout(() => waiter.reject(timedOut(timeoutMs)), timeoutMs);
      }
      this.#poll();
    });
  }

  #poll(): void {
    if (this.#polling) return;
    this.#polling = true;
    try {
      this.native.poll((errno) => {
        this.#polling = false;
        this.#deliver(errno);
      });
    } catch (error) {
      this.#polling = false;
      this.#rejectAll(() => this.wrap(error));
    }
  }

  #deliver(errno: number): void {
    if (errno !== 0) {
      const cause = Object.assign(new Error('poll'), { code: 'EIO', errno, syscall: 'poll' });
      this.#rejectAll(() => this.wrap(cause));
      return;
    }
    try {
      for (const waiter of [...this.#waiters]) {
        const value = this.read();
        if (value === undefined) break;
        waiter.resolve(value);
      }
    } catch (error) {
      this.#rejectAll(() => error);
      return;
    }
    // Another reader was faster, or there are more who wait.
    if (this.#waiters.size > 0) this.#poll();
  }

  #stopPolling(): void {
    if (!this.#polling) return;
    this.#polling = false;
    if (!this.closed) this.native.cancelPoll();
  }

  #rejectAll(reason: () => unknown): void {
    for (const waiter of [...this.#waiters]) waiter.reject(reason());
  }
}

function timedOut(timeoutMs: number): KvmError {
  return new KvmError(`The eventfd was not signalled within ${timeoutMs} ms`, 'ERR_KVM_TIMEOUT');
}
