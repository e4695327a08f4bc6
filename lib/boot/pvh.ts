/** PVH: an ELF kernel entered in 32-bit mode with a struct hvm_start_info (Xen, *PVH boot protocol*, version 1). */
import { FormatReader } from '../format.ts';
import { LaunchImage } from '../memory/launch-image.ts';
import { commandLineBytes } from './command-line.ts';
import { protectedMode } from './cpu-state.ts';
import { parseElf } from './elf.ts';
import type { Elf } from './elf.ts';
import type { BootOptions } from './image.ts';
import { addInitrd, lowRamEnd, needHighRam } from './image.ts';
import { ELF_COMMAND_LINE_MAX } from './linux.ts';
import { LOW } from './platform.ts';

const START_MAGIC = 0x336e_c578;
const VERSION = 1;
const NOTE_NAME = 'Xen';
/** XEN_ELFNOTE_PHYS32_ENTRY */
const NOTE_ENTRY = 18;
const START_INFO_SIZE = 56;
const MODULE_SIZE = 32;
const MAP_ENTRY_SIZE = 24;
const FLAGS_RESERVED = 2n;

/** The entry point that a PVH kernel names in its notes, or undefined where it names none. */
export function pvhEntry({ notes }: Elf): bigint | undefined {
  const note = notes.find(({ name, type }) => name === NOTE_NAME && type === NOTE_ENTRY);
  if (note === undefined) return undefined;
  const reader = new FormatReader('ELF', note.description);
  const entry = reader.length >= 8 ? reader.u64(0, 'PVH entry') : BigInt(reader.u32(0, 'PVH entry'));
  if (entry > 0xffff_ffffn) throw reader.error('PVH entry', `0x${entry.toString(16)} is out of reach of 32-bit code`);
  return entry;
}

/**
 * An ELF kernel by its PVH entry.
 * @throws KvmFormatError where it has none, RangeError where it does not fit into guest memory.
 */
export function bootPvh(file: Uint8Array, options: BootOptions): LaunchImage {
  const elf = parseElf(file);
  const entry = pvhEntry(elf);
  if (entry === undefined)
    throw new FormatReader('ELF', file).error(
      'PT_NOTE',
      'there is no PVH entry: the kernel was built without CONFIG_PVH',
    );
  const image = new LaunchImage();
  for (const [index, { gpa, bytes, size }] of elf.segments.entries()) {
    const name = `kernel segment ${index}`;
    needHighRam(name, gpa, size, options.ram);
    image.add({ name, gpa, bytes, size });
  }
  const initrd = addInitrd(image, options.initrd, image.end, lowRamEnd(options.ram));
  image.add({
    name: 'command line',
    gpa: LOW.commandLine,
    bytes: commandLineBytes(options.cmdline ?? '', ELF_COMMAND_LINE_MAX),
  });
  const module = initrd === undefined ? undefined : { gpa: initrd, size: options.initrd!.byteLength };
  image.add({ name: 'hvm_start_info', gpa: LOW.startInfo, bytes: startInfo(options, module) });
  image.vcpu = { sregs: protectedMode(image), regs: { rip: entry, rbx: LOW.startInfo, rflags: FLAGS_RESERVED } };
  return image;
}

function startInfo(
  { memoryMap, rsdp = 0n }: BootOptions,
  module: { gpa: bigint; size: number } | undefined,
): Uint8Array {
  const mapAt = START_INFO_SIZE + MODULE_SIZE;
  const bytes = new Uint8Array(mapAt + MAP_ENTRY_SIZE * memoryMap.length);
  if (BigInt(bytes.byteLength) > LOW.startInfoEnd - LOW.startInfo)
    throw new RangeError(`The memory map has too many entries for PVH: ${memoryMap.length}`);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, START_MAGIC, true);
  view.setUint32(4, VERSION, true);
  view.setUint32(12, module === undefined ? 0 : 1, true);
  view.setBigUint64(16, module === undefined ? 0n : LOW.startInfo + BigInt(START_INFO_SIZE), true);
  view.setBigUint64(24, LOW.commandLine, true);
  view.setBigUint64(32, rsdp, true);
  view.setBigUint64(40, LOW.startInfo + BigInt(mapAt), true);
  view.setUint32(48, memoryMap.length, true);
  if (module !== undefined) {
    view.setBigUint64(START_INFO_SIZE, module.gpa, true);
    view.setBigUint64(START_INFO_SIZE + 8, BigInt(module.size), true);
  }
  memoryMap.forEach(({ gpa, size, type }, index) => {
    const at = mapAt + MAP_ENTRY_SIZE * index;
    view.setBigUint64(at, gpa, true);
    view.setBigUint64(at + 8, size, true);
    view.setUint32(at + 16, type, true);
  });
  return bytes;
}
