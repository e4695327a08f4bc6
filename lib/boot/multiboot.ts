/** Multiboot 1 (*Multiboot Specification* 0.6.96): 32-bit ELF files and flat images with addresses in their header. */
import { FormatReader } from '../format.ts';
import { LaunchImage } from '../memory/launch-image.ts';
import { commandLineBytes } from './command-line.ts';
import { protectedMode } from './cpu-state.ts';
import { isElf, parseElf } from './elf.ts';
import type { BootOptions } from './image.ts';
import { lowRamEnd, needHighRam, pageAlign } from './image.ts';
import { LOW } from './platform.ts';

const HEADER_MAGIC = 0x1bad_b002;
/** What the loader leaves in eax. */
const LOADER_MAGIC = 0x2bad_b002n;
/** The header lies within this many bytes of the file's start. */
const HEADER_SEARCH = 8192;
const FLAG_ADDRESSES = 1 << 16;
/** Bits 0 to 15 are demands; these two (page-aligned modules, memory information) are always met. */
const DEMANDS_MET = 0b11;
const COMMAND_LINE_MAX = 4095;
const FLAGS_RESERVED = 2n;

const INFO_SIZE = 120;
const INFO_MEMORY = 1 << 0;
const INFO_COMMAND_LINE = 1 << 2;
const INFO_MODULES = 1 << 3;
const INFO_MEMORY_MAP = 1 << 6;
const INFO_LOADER_NAME = 1 << 9;

export interface MultibootHeader {
  /** Where it begins in the file. */
  readonly offset: number;
  readonly flags: number;
}

/** Looks for the header with its right checksum. */
export function findMultibootHeader(bytes: Uint8Array): MultibootHeader | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let offset = 0; offset + 12 <= Math.min(bytes.byteLength, HEADER_SEARCH); offset += 4) {
    if (view.getUint32(offset, true) !== HEADER_MAGIC) continue;
    const flags = view.getUint32(offset + 4, true);
    if ((HEADER_MAGIC + flags + view.getUint32(offset + 8, true)) % 2 ** 32 === 0) return { offset, flags };
  }
  return undefined;
}

/**
 * A multiboot image. The initrd becomes its first module, with an empty command line.
 * @throws KvmFormatError for a file that is no such image, RangeError where it does not fit into guest memory.
 */
export function bootMultiboot(file: Uint8Array, options: BootOptions): LaunchImage {
  const header = findMultibootHeader(file);
  if (header === undefined)
    throw new FormatReader('multiboot', file).error('magic', `no header within the first ${HEADER_SEARCH} bytes`);
  const unmet = header.flags & 0xffff & ~DEMANDS_MET;
  if (unmet !== 0)
    throw new FormatReader('multiboot', file).error(
      'flags',
      `it demands what is not offered: 0x${unmet.toString(16)} (bit 2 is a video mode)`,
    );
  const image = new LaunchImage();
  const entry =
    (header.flags & FLAG_ADDRESSES) === 0 ? addElf(image, file, options) : addFlat(image, file, header, options);
  const module = options.initrd === undefined ? undefined : addModule(image, options.initrd, options);
  image.add({
    name: 'command line',
    gpa: LOW.commandLine,
    bytes: commandLineBytes(options.cmdline ?? '', COMMAND_LINE_MAX),
  });
  image.add({ name: 'multiboot information', gpa: LOW.startInfo, bytes: information(options, module) });
  image.vcpu = {
    sregs: protectedMode(image),
    regs: { rip: entry, rax: LOADER_MAGIC, rbx: LOW.startInfo, rflags: FLAGS_RESERVED },
  };
  return image;
}

function addElf(image: LaunchImage, file: Uint8Array, { ram }: BootOptions): bigint {
  if (!isElf(file))
    throw new FormatReader('multiboot', file).error(
      'flags',
      'without addresses in the header (bit 16) the file must be ELF',
    );
  const elf = parseElf(file);
  if (elf.bits !== 32)
    throw new FormatReader('multiboot', file).error(
      'EI_CLASS',
      'the entry is in 32-bit mode and the file is a 64-bit one; objcopy -O elf32-i386 makes it fit',
    );
  for (const [index, { gpa, bytes, size }] of elf.segments.entries()) {
    needHighRam(`segment ${index}`, gpa, size, ram);
    image.add({ name: `segment ${index}`, gpa, bytes, size });
  }
  return elf.entry;
}

function addFlat(image: LaunchImage, file: Uint8Array, { offset }: MultibootHeader, { ram }: BootOptions): bigint {
  const header = new FormatReader('multiboot', file).part(offset, 32, 'header');
  const headerAddress = header.u32(12, 'header_addr');
  const loadAddress = header.u32(16, 'load_addr');
  const loadEnd = header.u32(20, 'load_end_addr');
  const bssEnd = header.u32(24, 'bss_end_addr');
  if (loadAddress > headerAddress)
    throw header.error('load_addr', 'it is above header_addr, which belongs to what is loaded');
  const start = offset - (headerAddress - loadAddress);
  if (start < 0) throw header.error('header_addr', 'the image would begin before the file does');
  // 0 is: to the end of the file, and no bss.
  const length = loadEnd === 0 ? file.byteLength - start : loadEnd - loadAddress;
  if (length <= 0 || start + length > file.byteLength)
    throw header.error(
      'load_end_addr',
      `${length} bytes from offset ${start} are not in the file of ${file.byteLength}`,
    );
  const size = bssEnd === 0 ? length : bssEnd - loadAddress;
  if (size < length) throw header.error('bss_end_addr', 'it is below load_end_addr');
  const gpa = BigInt(loadAddress);
  needHighRam('the image', gpa, size, ram);
  image.add({ name: 'image', gpa, bytes: file.subarray(start, start + length), size });
  return BigInt(header.u32(28, 'entry_addr'));
}

interface Module {
  readonly gpa: bigint;
  readonly size: number;
}

/** Right behind the image: what kvm-unit-tests and most kernels expect. */
function addModule(image: LaunchImage, bytes: Uint8Array, { ram }: BootOptions): Module {
  const gpa = pageAlign(image.end);
  needHighRam('the module', gpa, bytes.byteLength, ram);
  image.add({ name: 'module', gpa, bytes });
  return { gpa, size: bytes.byteLength };
}

/** The information structure, one module entry, an empty string, the loader's name and the memory map, in one part. */
function information({ memoryMap, ram }: BootOptions, module: Module | undefined): Uint8Array {
  const modulesAt = INFO_SIZE;
  const nameAt = modulesAt + 16;
  const mapAt = nameAt + 16;
  const bytes = new Uint8Array(mapAt + 24 * memoryMap.length);
  const view = new DataView(bytes.buffer);
  const address = (offset: number): number => Number(LOW.startInfo) + offset;
  const set = (offset: number, value: number): void => view.setUint32(offset, value, true);
  set(
    0,
    INFO_MEMORY | INFO_COMMAND_LINE | INFO_MEMORY_MAP | INFO_LOADER_NAME | (module === undefined ? 0 : INFO_MODULES),
  );
  const kib = 1024n;
  set(4, Number(LOW.extendedBiosData / kib));
  set(8, Number((lowRamEnd(ram) - 0x10_0000n) / kib));
  set(16, Number(LOW.commandLine));
  if (module !== undefined) {
    set(20, 1);
    set(24, address(modulesAt));
    set(modulesAt, Number(module.gpa));
    set(modulesAt + 4, Number(module.gpa) + module.size);
    set(modulesAt + 8, address(nameAt + 15)); // an empty string
  }
  set(44, 24 * memoryMap.length);
  set(48, address(mapAt));
  set(64, address(nameAt));
  bytes.set(Buffer.from('node-kvm'), nameAt);
  memoryMap.forEach(({ gpa, size, type }, index) => {
    const at = mapAt + 24 * index;
    set(at, 20);
    view.setBigUint64(at + 4, gpa, true);
    view.setBigUint64(at + 12, size, true);
    set(at + 20, type);
  });
  return bytes;
}
