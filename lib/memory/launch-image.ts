/**
 * What a guest is made of before its first instruction: bytes at guest physical addresses, in order, and the state of
 * the vCPU that starts. One value with three uses: a plain VM writes it, a confidential one launches it, the
 * measurement hashes it. Pure.
 */
import type { Regs, Sregs } from '../abi/index.ts';
import { gpa as checkGpa } from '../arguments.ts';
import { KvmError } from '../errors.ts';
import { hex } from './layout.ts';

/**
 * What a part is to the firmware that measures it: `normal` is content and address, `zero` the address of zeros,
 * `unmeasured` the address alone, the rest pages with a meaning of their own. A plain VM writes them all.
 */
export type LaunchKind = 'normal' | 'zero' | 'unmeasured' | 'secrets' | 'cpuid';

export interface LaunchPart {
  /** What it is, for people: `'kernel'`, `'initrd'`, `'RSDP'`. */
  readonly name: string;
  readonly gpa: bigint;
  readonly bytes: Uint8Array;
  /** Bytes of guest memory that it takes, at least those of `bytes`; what follows them is zero. */
  readonly size: number;
  readonly kind: LaunchKind;
}

/** Registers of a vCPU, to be laid over what a reset gives; all others stay as the reset has them. */
export interface LaunchVcpu {
  readonly regs: Partial<Regs>;
  readonly sregs: Partial<Sregs>;
}

export interface LaunchPartOptions {
  readonly name: string;
  readonly gpa: bigint;
  readonly bytes: Uint8Array;
  /** Default: the length of `bytes`. */
  readonly size?: number;
  /** Default: `'normal'`. */
  readonly kind?: LaunchKind;
}

/** An ordered list of parts that never overlap, and the state of the first vCPU. */
export class LaunchImage {
  readonly #parts: LaunchPart[] = [];
  /** State of the vCPU that starts; the others wait for it to start them. Undefined until something sets it. */
  vcpu: LaunchVcpu | undefined;

  /** In the order in which they were added, which is the order in which they are measured. */
  get parts(): readonly LaunchPart[] {
    return this.#parts;
  }

  /**
   * Adds a part at the end. Empty ones are left out.
   * @throws KvmError `ERR_KVM_OVERLAP` where it would cover a byte of another part.
   */
  add({ name, gpa, bytes, size = bytes.byteLength, kind = 'normal' }: LaunchPartOptions): void {
    checkGpa('gpa', gpa);
    if (size < bytes.byteLength)
      throw new RangeError(`${name} has ${bytes.byteLength} bytes, more than its size of ${size}`);
    if (size === 0) return;
    const end = gpa + BigInt(size);
    const other = this.overlapping(gpa, end);
    if (other !== undefined) {
      throw new KvmError(
        `${name} (${hex(gpa)}-${hex(end)}) and ${other.name} (${hex(other.gpa)}-` +
          `${hex(other.gpa + BigInt(other.size))}) would overlap in guest memory`,
        'ERR_KVM_OVERLAP',
      );
    }
    this.#parts.push({ name, gpa, bytes, size, kind });
  }

  /** The first part with a byte in [start, end). */
  overlapping(start: bigint, end: bigint): LaunchPart | undefined {
    return this.#parts.find((part) => part.gpa < end && start < part.gpa + BigInt(part.size));
  }

  /** The address after the last byte of all parts. */
  get end(): bigint {
    return this.#parts.reduce((end, { gpa, size }) => (gpa + BigInt(size) > end ? gpa + BigInt(size) : end), 0n);
  }
}
