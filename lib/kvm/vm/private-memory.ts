/** guest_memfd and memory attributes: what of the guest's memory is private. */
import { CAPS, GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP } from '../../abi/index.ts';
import {
  boolean,
  options as checkOptions,
  pageAlignedBytes,
  pageAlignedGpaRange,
  rangeError,
  u64,
} from '../../arguments.ts';
import { KvmUnsupportedError } from '../../errors.ts';
import { GuestMemfd } from '../guest-memfd.ts';
import type { Vm } from './vm.ts';
import { VmMemslots } from './memslots.ts';
import type { Memslot } from './memslots.ts';

/** A range and its attributes (KVM_SET_MEMORY_ATTRIBUTES). */
export interface MemoryAttributes {
  /** A multiple of 4096. */
  readonly address: bigint;
  /** In bytes, a multiple of 4096. */
  readonly size: number | bigint;
  /** KVM_MEMORY_ATTRIBUTE_PRIVATE, or 0n for shared. Replaces what the range had. */
  readonly attributes: bigint;
  /** Allow pages that no memslot of this handle has; default false. */
  readonly allowUnbacked?: boolean;
}

const FLAG_NAMES: readonly (readonly [bigint, string])[] = [
  [BigInt(GUEST_MEMFD_FLAG_MMAP), 'GUEST_MEMFD_FLAG_MMAP'],
  [BigInt(GUEST_MEMFD_FLAG_INIT_SHARED), 'GUEST_MEMFD_FLAG_INIT_SHARED'],
];

const REQUEST_KEYS = ['address', 'size', 'attributes', 'allowUnbacked'] as const;

export abstract class VmPrivateMemory extends VmMemslots {
  /** The kernel's answer does not change while a VM lives. */
  #validAttributes: bigint | undefined;
  /** The slot that held the last range: the next one is mostly there too. */
  #lastBacked: Memslot | undefined;

  /**
   * Makes a guest_memfd of this VM. Nothing is allocated yet, whatever the size. Needs KVM_CAP_GUEST_MEMFD (Linux 6.8);
   * whether it can also be bound is asked on this VM: kernels before 6.18 do so for VM types with private memory only.
   *
   * @param size - in bytes, a multiple of 4096.
   * @param options - `flags`: GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED, where KVM_CAP_GUEST_MEMFD_FLAGS of
   * this VM has them; default 0n.
   * @throws KvmUnsupportedError where this kernel has no guest_memfd, or this VM not that flag.
   * @throws KvmSystemError EMFILE, ENOMEM, ... *KVM_CREATE_GUEST_MEMFD*
   */
  createGuestMemfd(size: number | bigint, options: { readonly flags?: bigint } = {}): GuestMemfd {
    const bytes = pageAlignedBytes('size', size);
    const { flags = 0n } = checkOptions<typeof options>('options', options, ['flags']);
    u64('options.flags', flags);
    const valid = BigInt(this.checkExtension(CAPS.KVM_CAP_GUEST_MEMFD_FLAGS));
    const refused = flags & ~valid;
    if (refused !== 0n) {
      const names = FLAG_NAMES.filter(([flag]) => (refused & flag) !== 0n).map(([, name]) => name);
      const what = names.length > 0 ? names.join(' and ') : `flags 0x${refused.toString(16)}`;
      throw new KvmUnsupportedError(
        `A guest_memfd of this VM (type ${this.typeName}) cannot have ${what}: ` +
          (valid === 0n
            ? 'this kernel knows no such flags (Linux 6.18 brought them)'
            : `KVM_CAP_GUEST_MEMFD_FLAGS of the VM is 0x${valid.toString(16)}`),
        'KVM_CAP_GUEST_MEMFD_FLAGS',
      );
    }
    let native;
    try {
      native = this.check(() => this.native.createGuestMemfd(bytes, flags), {
        state: `size 0x${bytes.toString(16)}, flags ${flags}`,
      });
    } catch (error) {
      if ((error as { code?: string }).code !== 'ENOTTY') throw error;
      throw new KvmUnsupportedError(
        'This kernel has no guest_memfd: Linux 6.8 brought it, built with KVM_GUEST_MEMFD',
        'KVM_CAP_GUEST_MEMFD',
        { cause: error },
      );
    }
    return new GuestMemfd(this as unknown as Vm, native, bytes, flags);
  }

  /**
   * Makes a range private or shared, all of it or nothing. The kernel keeps an entry per page, so that 1 GiB of private
   * memory costs it some megabytes, and 2^52 bytes would take the host down: therefore only pages that a memslot of
   * this handle has are taken, unless `allowUnbacked`. Neither content is copied or cleared: a slot has two separate
   * sides. There is no way to read attributes back. Needs KVM_CAP_MEMORY_ATTRIBUTES on this VM.
   *
   * @throws KvmUnsupportedError where this VM does not have the attribute.
   * @throws RangeError for a range that no memslot covers.
   * @throws KvmSystemError ENOMEM: nothing was changed. *KVM_SET_MEMORY_ATTRIBUTES*
   */
  setMemoryAttributes(request: MemoryAttributes): void {
    const { address, size, attributes, allowUnbacked = false } = optionsOf(request);
    const bytes = this.#checked(address, size, attributes, allowUnbacked);
    try {
      this.native.setMemoryAttributes(address, bytes, attributes);
    } catch (error) {
      throw this.wrap(error, { state: describe(address, bytes, attributes) });
    }
  }

  /** The same on a pool thread: about 0.15 s a GiB. The VM stays open until it is done. */
  async setMemoryAttributesAsync(request: MemoryAttributes): Promise<void> {
    const { address, size, attributes, allowUnbacked = false } = optionsOf(request);
    const bytes = this.#checked(address, size, attributes, allowUnbacked);
    await this.checkAsync(() => this.native.setMemoryAttributesAsync(address, bytes, attributes), {
      state: describe(address, bytes, attributes),
    });
  }

  /** Returns the size as a bigint. */
  #checked(address: bigint, size: number | bigint, attributes: bigint, allowUnbacked: boolean): bigint {
    this.expectOpen();
    const bytes = pageAlignedGpaRange(address, size, 'request.address', 'request.size');
    boolean('request.allowUnbacked', allowUnbacked);
    if (u64('request.attributes', attributes) !== 0n) this.#expectAttributes(attributes);
    if (!allowUnbacked) this.#expectBacked(address, bytes);
    return bytes;
  }

  #expectAttributes(attributes: bigint): void {
    const valid = (this.#validAttributes ??= BigInt(this.checkExtension(CAPS.KVM_CAP_MEMORY_ATTRIBUTES)));
    if ((attributes & ~valid) === 0n) return;
    throw new KvmUnsupportedError(
      `This VM (type ${this.typeName}) does not have memory attributes ` +
        `0x${attributes.toString(16)}: KVM_CAP_MEMORY_ATTRIBUTES of the VM is 0x${valid.toString(16)}. Private ` +
        'memory needs a VM of type sw-protected, snp or tdx',
      'KVM_CAP_MEMORY_ATTRIBUTES',
    );
  }

  #expectBacked(address: bigint, size: bigint): void {
    const end = address + size;
    const last = this.#lastBacked;
    if (
      last !== undefined &&
      this.memslots.get(last.slot) === last &&
      address >= last.gpa &&
      end <= last.gpa + BigInt(last.size)
    ) {
      return;
    }
    let at = address;
    const slots = [...this.memslots.values()].filter(({ slot }) => slot >>> 16 === 0);
    for (const memslot of slots.sort((a, b) => (a.gpa < b.gpa ? -1 : 1))) {
      const { gpa, size: length } = memslot;
      if (gpa > at) break;
      this.#lastBacked = memslot;
      if (gpa + BigInt(length) > at) at = gpa + BigInt(length);
    }
    if (at < end) {
      throw rangeError(
        `a range that memslots cover (there is none at 0x${at.toString(16)}; say allowUnbacked to set ` +
          'attributes there all the same)',
        'request.size',
        size,
      );
    }
  }
}

function optionsOf(request: MemoryAttributes): MemoryAttributes {
  return checkOptions<MemoryAttributes>('request', request, REQUEST_KEYS) as MemoryAttributes;
}

function describe(address: bigint, size: bigint, attributes: bigint): string {
  return `address 0x${address.toString(16)}, size 0x${size.toString(16)}, attributes 0x${attributes.toString(16)}`;
}
