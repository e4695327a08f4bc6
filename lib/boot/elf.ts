/** ELF executables for x86: what of them is loaded where. System V ABI, *Object Files* and *Program Loading*. */
import { FormatReader } from '../format.ts';

const MAGIC = 0x464c_457f;
const CLASS_32 = 1;
const CLASS_64 = 2;
const LITTLE_ENDIAN = 1;
const EXECUTABLE = 2;
const SHARED = 3;
const MACHINE_386 = 3;
const MACHINE_X86_64 = 62;
const SEGMENT_LOAD = 1;
const SEGMENT_NOTE = 4;

export interface ElfSegment {
  /** Physical address of the first byte. */
  readonly gpa: bigint;
  readonly virtualAddress: bigint;
  /** What the file holds of it; the rest of `size` is zero. A view of the file. */
  readonly bytes: Uint8Array;
  readonly size: number;
}

export interface ElfNote {
  readonly name: string;
  readonly type: number;
  readonly description: Uint8Array;
}

export interface Elf {
  readonly bits: 32 | 64;
  /** As the file has it: an address of execution, virtual or physical as its linker had it. */
  readonly entry: bigint;
  /** In the order of the file, those without a byte in memory left out. */
  readonly segments: readonly ElfSegment[];
  readonly notes: readonly ElfNote[];
}

export function isElf(bytes: Uint8Array): boolean {
  return bytes.byteLength >= 4 && new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) === MAGIC;
}

/**
 * Reads the headers of an x86 executable. `bytes` must stay unchanged while the result is in use.
 * @throws KvmFormatError naming the field that is wrong.
 */
export function parseElf(bytes: Uint8Array): Elf {
  const file = new FormatReader('ELF', bytes);
  if (file.u32(0, 'e_ident') !== MAGIC) throw file.error('e_ident', 'the magic number is missing');
  const elfClass = file.u8(4, 'EI_CLASS');
  if (elfClass !== CLASS_32 && elfClass !== CLASS_64)
    throw file.error('EI_CLASS', `${elfClass} is neither 32-bit nor 64-bit`);
  if (file.u8(5, 'EI_DATA') !== LITTLE_ENDIAN)
    throw file.error('EI_DATA', 'x86 is little-endian, and this file is not');
  const type = file.u16(16, 'e_type');
  if (type !== EXECUTABLE && type !== SHARED) throw file.error('e_type', `${type} is no executable`);
  const bits = elfClass === CLASS_64 ? 64 : 32;
  const machine = file.u16(18, 'e_machine');
  // A 32-bit file may say x86-64 (the x32 ABI), but then it wants a 64-bit mode that no boot protocol here gives.
  if (machine !== (bits === 64 ? MACHINE_X86_64 : MACHINE_386))
    throw file.error('e_machine', `${machine} is not x86 of ${bits} bits`);
  const headers = readHeaders(file, bits);
  const segments = headers
    .filter(({ type, size }) => type === SEGMENT_LOAD && size > 0)
    .map((header) => segment(file, header));
  if (segments.length === 0) throw file.error('e_phnum', 'there is nothing to load');
  const notes = headers.filter(({ type }) => type === SEGMENT_NOTE).flatMap((header) => readNotes(file, header));
  return { bits, entry: bits === 64 ? file.u64(24, 'e_entry') : BigInt(file.u32(24, 'e_entry')), segments, notes };
}

/** The physical address at which execution starts, whichever kind of address the file gives. */
export function physicalEntry({ entry, segments }: Elf): bigint {
  const holds = (start: bigint, size: number): boolean => entry >= start && entry < start + BigInt(size);
  const physical = segments.find(({ gpa, size }) => holds(gpa, size));
  if (physical !== undefined) return entry;
  const virtual = segments.find(({ virtualAddress, size }) => holds(virtualAddress, size));
  if (virtual === undefined) {
    throw new FormatReader('ELF', new Uint8Array()).error(
      'e_entry',
      `0x${entry.toString(16)} lies in no loaded segment`,
    );
  }
  return entry - virtual.virtualAddress + virtual.gpa;
}

interface ProgramHeader {
  readonly index: number;
  readonly type: number;
  readonly offset: number;
  readonly virtualAddress: bigint;
  readonly gpa: bigint;
  readonly fileSize: number;
  readonly size: number;
  readonly align: number;
}

function readHeaders(file: FormatReader, bits: 32 | 64): ProgramHeader[] {
  const wide = bits === 64;
  const start = wide ? file.size(32, 'e_phoff') : file.u32(28, 'e_phoff');
  const stride = file.u16(wide ? 54 : 42, 'e_phentsize');
  const count = file.u16(wide ? 56 : 44, 'e_phnum');
  const least = wide ? 56 : 32;
  if (stride < least) throw file.error('e_phentsize', `${stride} is less than the ${least} bytes of a program header`);
  return Array.from({ length: count }, (_, index) => {
    const header = file.part(start + index * stride, least, `program header ${index}`);
    const name = (field: string): string => `${field} of program header ${index}`;
    const type = header.u32(0, name('p_type'));
    if (wide) {
      return {
        index,
        type,
        offset: header.size(8, name('p_offset')),
        virtualAddress: header.u64(16, name('p_vaddr')),
        gpa: header.u64(24, name('p_paddr')),
        fileSize: header.size(32, name('p_filesz')),
        size: header.size(40, name('p_memsz')),
        align: header.size(48, name('p_align')),
      };
    }
    return {
      index,
      type,
      offset: header.u32(4, name('p_offset')),
      virtualAddress: BigInt(header.u32(8, name('p_vaddr'))),
      gpa: BigInt(header.u32(12, name('p_paddr'))),
      fileSize: header.u32(16, name('p_filesz')),
      size: header.u32(20, name('p_memsz')),
      align: header.u32(28, name('p_align')),
    };
  });
}

function segment(
  file: FormatReader,
  { index, offset, gpa, virtualAddress, fileSize, size }: ProgramHeader,
): ElfSegment {
  if (fileSize > size)
    throw file.error(`p_filesz of program header ${index}`, `${fileSize} is more than p_memsz (${size})`);
  if (gpa >= 1n << 52n)
    throw file.error(`p_paddr of program header ${index}`, `0x${gpa.toString(16)} is no physical address`);
  return { gpa, virtualAddress, size, bytes: file.slice(offset, fileSize, `content of program header ${index}`) };
}

function readNotes(file: FormatReader, { index, offset, fileSize, align }: ProgramHeader): ElfNote[] {
  const part = file.part(offset, fileSize, `content of program header ${index}`);
  const aligned = (value: number): number => Math.ceil(value / (align === 8 ? 8 : 4)) * (align === 8 ? 8 : 4);
  const notes: ElfNote[] = [];
  for (let at = 0; at + 12 <= part.length;) {
    const nameSize = part.u32(at, 'n_namesz');
    const descriptionSize = part.u32(at + 4, 'n_descsz');
    const descriptionAt = aligned(at + 12 + nameSize);
    notes.push({
      type: part.u32(at + 8, 'n_type'),
      name: part.text(at + 12, nameSize, 'note name'),
      description: part.slice(descriptionAt, descriptionSize, 'note description'),
    });
    at = aligned(descriptionAt + descriptionSize);
  }
  return notes;
}
