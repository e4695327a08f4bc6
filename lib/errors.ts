/**
 * The errors of node-kvm. Bad arguments are plain TypeError and RangeError (see arguments.ts); everything else that
 * goes wrong is a KvmError, and `code` says which.
 */
import { getSystemErrorMap } from 'node:util';

/** What every error of this package has in common: a `code` to switch on. */
export class KvmError extends Error {
  readonly code: string;

  constructor(message: string, code: string, options?: { readonly cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}
setName(KvmError, 'KvmError');

/** What a failed system call left: its errno in both forms, and its name. */
export interface KvmSystemErrorOptions {
  readonly code: string;
  /** Negative, as in Node. */
  readonly errno: number;
  readonly syscall: string;
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

/** A system call failed. `code` is the name of the errno (`'EINVAL'`). */
export class KvmSystemError extends KvmError {
  /** Negative, as in Node: -22 for EINVAL. */
  readonly errno: number;
  /** The ioctl's kernel name (`'KVM_CREATE_VM'`) or the system call (`'mmap'`). */
  readonly syscall: string;
  /** The likely cause and what to do about it, where it is known. */
  readonly hint: string | undefined;

  constructor(message: string, options: KvmSystemErrorOptions) {
    super(message, options.code, causeOf(options));
    this.errno = options.errno;
    this.syscall = options.syscall;
    this.hint = options.hint;
  }
}
setName(KvmSystemError, 'KvmSystemError');

/** This host, kernel or VM type cannot do what was asked. */
export class KvmUnsupportedError extends KvmError {
  /** What is missing: a capability's kernel name (`'KVM_CAP_GUEST_MEMFD'`) or a short word (`'addon'`). */
  readonly capability: string;

  constructor(message: string, capability: string, options?: { readonly cause?: unknown }) {
    super(message, 'ERR_KVM_UNSUPPORTED', options);
    this.capability = capability;
  }
}
setName(KvmUnsupportedError, 'KvmUnsupportedError');

/** What stands in the way, as the `code` of a {@link KvmStateError}. */
export type KvmStateErrorCode =
  'ERR_KVM_STATE' | 'ERR_KVM_CLOSED' | 'ERR_KVM_RUNNING' | (string & { readonly name?: never });

/**
 * The object is not in a state that allows the call: `'ERR_KVM_CLOSED'` after close, `'ERR_KVM_RUNNING'` while the vCPU
 * runs, `'ERR_KVM_STATE'` (the default) for any other wrong order.
 */
export class KvmStateError extends KvmError {
  constructor(message: string, code: KvmStateErrorCode = 'ERR_KVM_STATE', options?: { readonly cause?: unknown }) {
    super(message, code, options);
  }
}
setName(KvmStateError, 'KvmStateError');

/** What is known of a guest that failed: the exit, and the registers where they could be read. */
export interface KvmGuestErrorOptions {
  readonly exit: unknown;
  readonly registers?: unknown;
  readonly cause?: unknown;
}

/** The guest did something that ends its run: a triple fault, a failed entry, an emulation failure. */
export class KvmGuestError extends KvmError {
  /** The exit that was not expected, its data copied. */
  readonly exit: unknown;
  /** The general registers at that exit, where they could be read. */
  readonly registers: unknown;

  constructor(message: string, options: KvmGuestErrorOptions) {
    super(message, 'ERR_KVM_GUEST', causeOf(options));
    this.exit = options.exit;
    this.registers = options.registers;
  }
}
setName(KvmGuestError, 'KvmGuestError');

/** The security firmware (AMD's secure processor, the TDX module) refused a command. */
export class KvmFirmwareError extends KvmError {
  /** The firmware's own status word. */
  readonly status: bigint;

  constructor(message: string, status: bigint, options?: { readonly cause?: unknown }) {
    super(message, 'ERR_KVM_FIRMWARE', options);
    this.status = status;
  }
}
setName(KvmFirmwareError, 'KvmFirmwareError');

/** What a {@link KvmFormatError} says beside its message. */
export interface KvmFormatErrorOptions {
  /** What the bytes were taken for: `'bzImage'`, `'ELF'`. */
  readonly format: string;
  /** The field or part that is wrong, by the name that the format's specification gives it. */
  readonly field: string;
  readonly cause?: unknown;
}

/** A kernel image, firmware, table or report is not what its format demands. `code` is `'ERR_KVM_FORMAT'`. */
export class KvmFormatError extends KvmError {
  /** What the bytes were taken for. */
  readonly format: string;
  /** The field or part that is wrong. */
  readonly field: string;

  constructor(message: string, options: KvmFormatErrorOptions) {
    super(`${options.format}: ${options.field}: ${message}`, 'ERR_KVM_FORMAT', causeOf(options));
    this.format = options.format;
    this.field = options.field;
  }
}
setName(KvmFormatError, 'KvmFormatError');

/** What the message of a {@link KvmSystemError} says beside the system call's name and its errno. */
export interface WrapOptions {
  /** What failed, instead of the system call's name: `'Binding slot 3'`. */
  readonly message?: string;
  /** The likely cause and what to do about it. */
  readonly hint?: string | undefined;
  /** What was tried, or the state that it was tried in: `'slot 3, gpa 0x1000, size 4096'`. */
  readonly state?: string;
}

/**
 * Turns an error of the addon (own properties `code`, `errno` and `syscall`) into a KvmSystemError that says what was
 * tried, and one with an `ERR_KVM_` code into a KvmStateError. Anything else passes through unchanged, so
 * `throw wrapSystemError(error)` is always right in a catch.
 */
export function wrapSystemError(error: unknown, options?: WrapOptions): unknown {
  const { message, hint, state } = options ?? {};
  if (!(error instanceof Error) || error instanceof KvmError) return error;
  const { code, errno, syscall } = error as Error & { code?: unknown; errno?: unknown; syscall?: unknown };
  if (typeof code !== 'string') return error;
  if (code === 'ERR_KVM_CLOSED' || code === 'ERR_KVM_RUNNING' || code === 'ERR_KVM_STATE') {
    return new KvmStateError(error.message, code, { cause: error });
  }
  if (typeof errno !== 'number' || typeof syscall !== 'string') return error;
  let text = `${message ?? syscall} failed: `;
  if (message !== undefined && !message.includes(syscall)) text += `${syscall}: `;
  text += `${code} (${describeErrno(errno)})`;
  if (state !== undefined) text += `: ${state}`;
  if (hint !== undefined) text += `${/[.!?]$/.test(text) ? '' : '.'} Likely cause: ${hint}`;
  return new KvmSystemError(text, { code, errno, syscall, hint, cause: error });
}

/** The end of a switch over a union: a type error when a case is missing, and an error at run time. */
export function assertNever(value: never, what = 'value'): never {
  throw new KvmError(`Unexpected ${printable(what)}: ${printable(value)}`, 'ERR_KVM_UNEXPECTED');
}

// The errnos of KVM in the words of strerror. libuv has a map too, but not of all of them, and in words of its own.
const ERRNO_TEXTS: ReadonlyMap<number, string> = new Map([
  [-1, 'Operation not permitted'],
  [-2, 'No such file or directory'],
  [-4, 'Interrupted system call'],
  [-5, 'Input/output error'],
  [-6, 'No such device or address'],
  [-7, 'Argument list too long'],
  [-9, 'Bad file descriptor'],
  [-11, 'Resource temporarily unavailable'],
  [-12, 'Cannot allocate memory'],
  [-13, 'Permission denied'],
  [-14, 'Bad address'],
  [-16, 'Device or resource busy'],
  [-17, 'File exists'],
  [-19, 'No such device'],
  [-22, 'Invalid argument'],
  [-23, 'Too many open files in system'],
  [-24, 'Too many open files'],
  [-25, 'Inappropriate ioctl for device'],
  [-28, 'No space left on device'],
  [-38, 'Function not implemented'],
  [-95, 'Operation not supported'],
  [-133, 'Memory page has hardware error'],
]);

function describeErrno(errno: number): string {
  return ERRNO_TEXTS.get(errno) ?? getSystemErrorMap().get(errno)?.[1] ?? `errno ${-errno}`;
}

function causeOf(options: { readonly cause?: unknown }): { cause: unknown } | undefined {
  return options.cause === undefined ? undefined : { cause: options.cause };
}

function printable(value: unknown): string {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value !== 'object' || value === null) return String(value);
  try {
    return (
      JSON.stringify(value, (_key, inner: unknown) => (typeof inner === 'bigint' ? `${inner}n` : inner)) ?? 'object'
    );
  } catch {
    return 'an object that cannot be looked at';
  }
}

// On the prototype, as the built-in errors have it: not an own property, and right in stack traces.
function setName(constructor: { readonly prototype: Error }, name: string): void {
  Object.defineProperty(constructor.prototype, 'name', { value: name, configurable: true, writable: true });
}
