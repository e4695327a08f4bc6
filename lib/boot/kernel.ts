/** Any kernel image: what it is, and the boot protocol that goes with it. */
import { KvmFormatError } from '../errors.ts';
import type { LaunchImage } from '../memory/launch-image.ts';
import { isBzImage, parseBzImage } from './bzimage.ts';
import { isElf, parseElf } from './elf.ts';
import { bootFlat } from './flat.ts';
import type { FlatOptions } from './flat.ts';
import type { BootOptions } from './image.ts';
import { bootBzImage, bootVmlinux } from './linux.ts';
import { bootMultiboot, findMultibootHeader } from './multiboot.ts';
import { bootPvh, pvhEntry } from './pvh.ts';

/** How a kernel is started. */
export type BootProtocol = 'linux' | 'pvh' | 'multiboot' | 'flat';

export interface KernelFormat {
  readonly format: 'bzImage' | 'ELF' | 'multiboot' | 'flat';
  /** Those by which it can be started, the preferred one first. */
  readonly protocols: readonly BootProtocol[];
  /** A bzImage's version, where it has one. */
  readonly release?: string;
}

/**
 * What a file is, by its content: a bzImage, an ELF kernel, a multiboot image. Anything else is taken for a flat image,
 * which nothing in a file can confirm or refute.
 * @throws KvmFormatError for a file that has the signature of one of them and is broken.
 */
export function examineKernel(bytes: Uint8Array): KernelFormat {
  if (isBzImage(bytes)) {
    const { release } = parseBzImage(bytes);
    return { format: 'bzImage', protocols: ['linux'], ...(release === undefined ? {} : { release }) };
  }
  const multiboot = findMultibootHeader(bytes) !== undefined;
  if (isElf(bytes)) {
    const elf = parseElf(bytes);
    if (elf.bits === 32) return { format: multiboot ? 'multiboot' : 'ELF', protocols: multiboot ? ['multiboot'] : [] };
    return { format: 'ELF', protocols: pvhEntry(elf) === undefined ? ['linux'] : ['linux', 'pvh'] };
  }
  if (multiboot) return { format: 'multiboot', protocols: ['multiboot'] };
  return { format: 'flat', protocols: ['flat'] };
}

export interface KernelOptions extends BootOptions {
  /** Default: the preferred one of the file's format. */
  readonly protocol?: BootProtocol | undefined;
  /** For flat images only. */
  readonly flat?: FlatOptions | undefined;
}

/**
 * The launch image of a kernel.
 * @throws KvmFormatError naming the field that is wrong; RangeError where it does not fit into guest memory or its
 * command line is too long.
 */
export function bootKernel(bytes: Uint8Array, { protocol, flat, ...options }: KernelOptions): LaunchImage {
  const { format, protocols } = examineKernel(bytes);
  const chosen = protocol ?? protocols[0];
  if (chosen === undefined) {
    throw new KvmFormatError('a 32-bit file without a multiboot header cannot be started', {
      format,
      field: 'EI_CLASS',
    });
  }
  if (chosen !== 'flat' && !protocols.includes(chosen)) {
    throw new RangeError(
      `Expected one of ${[...protocols, 'flat'].join(', ')} for protocol, since the kernel is a ${format} file, ` +
        `but received ${chosen}`,
    );
  }
  switch (chosen) {
    case 'linux':
      return format === 'bzImage' ? bootBzImage(bytes, options) : bootVmlinux(bytes, options);
    case 'pvh':
      return bootPvh(bytes, options);
    case 'multiboot':
      return bootMultiboot(bytes, options);
    case 'flat':
      return bootFlat(bytes, options, flat);
  }
}
