/**
 * What all handles have in common: closing, children, and errors that say what failed. A handle stands for one object
 * of the kernel; closing it twice does nothing, and using it afterwards throws.
 */
import { typeError } from '../arguments.ts';
import { KvmStateError, wrapSystemError } from '../errors.ts';
import type { WrapOptions } from '../errors.ts';
import type { NativeFile } from '../native.ts';
import { hintFor } from './errno-hints.ts';

/** The part of a native object that closing needs. */
interface NativeCloseable {
  readonly closed: boolean;
  close(): void;
}

let nativeBehind: <N extends NativeCloseable>(handle: Closeable<N>) => N;
let hasNative: (value: object) => boolean;

/** An object that is closed by hand, and closes what was made from it first. */
export abstract class Closeable<N extends NativeCloseable> {
  readonly #native: N;
  readonly #label: string;
  readonly #parent: Closeable<NativeCloseable> | undefined;
  readonly #children = new Set<Closeable<NativeCloseable>>();
  #closed = false;

  static {
    nativeBehind = (handle) => handle.#native;
    hasNative = (value) => #native in value;
  }

  /** `label` names the object in messages: `'vCPU 3'`. A `parent` closes this object before itself. */
  protected constructor(label: string, native: N, parent?: Closeable<NativeCloseable>) {
    this.#label = label;
    this.#native = native;
    this.#parent = parent;
    if (parent !== undefined) parent.#children.add(this);
  }

  /** Whether {@link close} was called, here or by the object that this one belongs to. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Closes what was made from this object (the last made first), then the object itself. Idempotent. Where something
   * cannot be closed, the rest still is, and the first error is thrown.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.stopRuns();
    const failures: unknown[] = [];
    for (const target of [...[...this.#children].reverse(), this.#native]) {
      try {
        target.close();
      } catch (error) {
        failures.push(error);
      }
    }
    if (this.#parent !== undefined) this.#parent.#children.delete(this);
    if (failures.length > 0) throw wrapSystemError(failures[0], { message: `Closing the ${this.#label}` });
  }

  /** The same as {@link close}. */
  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * @internal Has the runs in what was made from this object end, without waiting for them. Closing waits for one vCPU
   * after the other, each time behind all those that still take processor time.
   */
  stopRuns(): void {
    for (const child of this.#children) child.stopRuns();
  }

  protected get native(): N {
    return this.#native;
  }

  protected get label(): string {
    return this.#label;
  }

  protected expectOpen(): void {
    if (this.#closed) throw new KvmStateError(`The ${this.#label} is closed`, 'ERR_KVM_CLOSED');
  }

  /** Makes a native call of this object, and turns its failure into an error that explains itself. */
  protected check<T>(call: () => T, options?: WrapOptions): T {
    this.expectOpen();
    try {
      return call();
    } catch (error) {
      throw this.wrap(error, options);
    }
  }

  /** The same for a call that settles later. */
  protected async checkAsync<T>(call: () => Promise<T>, options?: WrapOptions): Promise<T> {
    this.expectOpen();
    try {
      return await call();
    } catch (error) {
      throw this.wrap(error, options);
    }
  }

  protected wrap(error: unknown, options?: WrapOptions): unknown {
    return explain(error, options);
  }
}

/** An error of the addon with the likely cause, where one is known and none is given. */
export function explain(error: unknown, options: WrapOptions = {}): unknown {
  return wrapSystemError(error, { ...options, hint: options.hint ?? hintFor(error) });
}

/** A call of the addon that makes a handle, or an error that explains itself. */
export function make<T>(call: () => T, options?: WrapOptions): T {
  try {
    return call();
  } catch (error) {
    throw explain(error, options);
  }
}

/** A handle to an open file descriptor of the kernel. */
export abstract class Handle<N extends NativeFile> extends Closeable<N> {
  /** The file descriptor, close-on-exec and owned by this handle: do not close it. -1 once closed. */
  get fd(): number {
    return this.native.fd;
  }
}

/** The native object behind a handle that came in as an argument. */
export function nativeOf<N extends NativeCloseable>(handle: Closeable<N>): N {
  return nativeBehind(handle);
}

/** The native object of what must be an open handle with one of these members: for files that cannot import its class. */
export function expectNative<N extends NativeCloseable>(
  member: string & keyof N,
  what: string,
  name: string,
  value: unknown,
): N {
  const native = nativeOf(expectHandle<Closeable<NativeCloseable>>(Closeable, what, name, value));
  if (!(member in native)) throw typeError(what, name, value);
  return native as N;
}

// Not a type with `new`: the constructors of the handles are not public.
interface Constructor<T> extends Function {
  readonly prototype: T;
}

/** `value` as an open handle of `type`, or an error that names the argument. */
export function expectHandle<T extends { readonly closed: boolean }>(
  type: Constructor<T>,
  what: string,
  name: string,
  value: unknown,
): T {
  // What only inherits from the class has nothing behind it.
  if (!(value instanceof type) || !hasNative(value)) throw typeError(what, name, value);
  const handle = value;
  if (handle.closed) {
    throw new KvmStateError(`The ${what.replace(/^an? /, '')} given as ${name} is closed`, 'ERR_KVM_CLOSED');
  }
  return handle;
}
