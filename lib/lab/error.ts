import { KvmError } from '../errors.ts';

/** What the lab failed at, as the `code` of a LabError. */
export type LabErrorCode =
  | 'ERR_KVM_LAB_PACKAGES' | 'ERR_KVM_LAB_BUILD' | 'ERR_KVM_LAB_NOT_BUILT' | 'ERR_KVM_LAB_MACHINE' | 'ERR_KVM_LAB_TIMEOUT';

/**
 * The lab itself failed (a command that ran and failed is a result, not an error). `code` says how:
 * `ERR_KVM_LAB_PACKAGES` (Debian packages are missing), `ERR_KVM_LAB_BUILD`, `ERR_KVM_LAB_NOT_BUILT`,
 * `ERR_KVM_LAB_MACHINE` (the emulated machine stopped or its init failed), `ERR_KVM_LAB_TIMEOUT`.
 */
export class LabError extends KvmError {
  /** The last lines of the build's log or of the machine's console, where there are any. */
  readonly lines: readonly string[];

  constructor(message: string, code: LabErrorCode, options: { readonly lines?: readonly string[]; readonly cause?: unknown } = {}) {
    super(message, code, options.cause === undefined ? undefined : { cause: options.cause });
    this.lines = options.lines ?? [];
  }
}
Object.defineProperty(LabError.prototype, 'name', { value: 'LabError', configurable: true, writable: true });
