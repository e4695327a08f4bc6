/** Linux by its 64-bit boot protocol, from a bzImage or an ELF vmlinux. */
import { LaunchImage } from '../memory/launch-image.ts';
import { hex } from '../memory/layout.ts';
import { parseBzImage } from './bzimage.ts';
import type { BzImage } from './bzimage.ts';
import { commandLineBytes } from './command-line.ts';
import { longMode } from './cpu-state.ts';
import { parseElf, physicalEntry } from './elf.ts';
import type { BootOptions } from './image.ts';
import { addInitrd, lowRamEnd, needHighRam } from './image.ts';
import { LOW } from './platform.ts';
import { zeroPage } from './zero-page.ts';

/** What an ELF kernel takes (COMMAND_LINE_SIZE, less the NUL). */
export const ELF_COMMAND_LINE_MAX = 2047;
const COMMAND_LINE_ROOM = Number(LOW.commandLineEnd - LOW.commandLine) - 1;
const FLAGS_RESERVED = 2n;

/**
 * A bzImage as it is on disk, compressed or not.
 * @throws KvmFormatError for a file that is no such image, RangeError where it does not fit into guest memory.
 */
export function bootBzImage(file: Uint8Array, options: BootOptions): LaunchImage {
  const kernel = parseBzImage(file);
  const image = new LaunchImage();
  const gpa = loadAddress(kernel, lowRamEnd(options.ram));
  needHighRam('the kernel', gpa, kernel.initSize, options.ram);
  image.add({ name: 'kernel', gpa, bytes: kernel.kernel, size: kernel.initSize });
  const initrdLimit = min(lowRamEnd(options.ram), kernel.initrdAddressMax + 1n);
  finish(image, options, {
    entry: gpa + kernel.entryOffset,
    initrdLimit,
    kernelEnd: gpa + BigInt(kernel.initSize),
    commandLineMax: Math.min(kernel.commandLineSize, COMMAND_LINE_ROOM),
    setupHeader: kernel.setupHeader,
  });
  return image;
}

/** An ELF vmlinux, by its entry point in 64-bit mode. Throws as {@link bootBzImage} does. */
export function bootVmlinux(file: Uint8Array, options: BootOptions): LaunchImage {
  const elf = parseElf(file);
  if (elf.bits !== 64)
    throw new RangeError('Expected a 64-bit ELF kernel but received a 32-bit one: is it a multiboot image?');
  const image = new LaunchImage();
  for (const [index, { gpa, bytes, size }] of elf.segments.entries()) {
    const name = elf.segments.length === 1 ? 'kernel' : `kernel segment ${index}`;
    needHighRam(name, gpa, size, options.ram);
    image.add({ name, gpa, bytes, size });
  }
  finish(image, options, {
    entry: physicalEntry(elf),
    initrdLimit: lowRamEnd(options.ram),
    kernelEnd: image.end,
    commandLineMax: ELF_COMMAND_LINE_MAX,
  });
  return image;
}

interface Loaded {
  readonly entry: bigint;
  readonly kernelEnd: bigint;
  /** The address after the last one that the initrd may have. */
  readonly initrdLimit: bigint;
  readonly commandLineMax: number;
  readonly setupHeader?: Uint8Array;
}

function finish(
  image: LaunchImage,
  options: BootOptions,
  { entry, kernelEnd, initrdLimit, commandLineMax, setupHeader }: Loaded,
): void {
  const { cmdline = '', initrd, rsdp, memoryMap } = options;
  const line = commandLineBytes(cmdline, commandLineMax);
  const initrdGpa = addInitrd(image, initrd, kernelEnd, initrdLimit);
  image.add({ name: 'command line', gpa: LOW.commandLine, bytes: line });
  image.add({
    name: 'boot_params',
    gpa: LOW.zeroPage,
    bytes: zeroPage({
      memoryMap,
      rsdp,
      commandLine: LOW.commandLine,
      commandLineSize: line.byteLength - 1,
      ...(setupHeader === undefined ? {} : { setupHeader }),
      initrd: initrdGpa === undefined ? undefined : { gpa: initrdGpa, size: initrd!.byteLength },
    }),
  });
  image.vcpu = { sregs: longMode(image), regs: { rip: entry, rsi: LOW.zeroPage, rflags: FLAGS_RESERVED } };
}

/** Where it wants to be, or the first aligned place above 1 MiB that has room, for a guest with less memory. */
function loadAddress({ preferredAddress, alignment, relocatable, initSize }: BzImage, ramEnd: bigint): bigint {
  const fits = (gpa: bigint): boolean => gpa + BigInt(initSize) <= ramEnd;
  if (fits(preferredAddress) || !relocatable) return preferredAddress;
  const lowest = alignment > 0x10_0000n ? alignment : 0x10_0000n;
  if (fits(lowest)) return lowest;
  throw new RangeError(
    `The kernel needs ${initSize} bytes of guest memory from ${hex(lowest)} on, and memory ends at ${hex(ramEnd)}`,
  );
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
