/** Linux's bzImage: the setup header and the protected-mode kernel behind it (*The Linux/x86 Boot Protocol*). */
import { FormatReader } from '../format.ts';

const BOOT_FLAG = 0xaa55;
const HEADER_MAGIC = 0x5372_6448; // 'HdrS'
/** The first protocol with all fields that the 64-bit entry needs (xloadflags), Linux 3.8. */
const LEAST_VERSION = 0x020c;
const LOADED_HIGH = 1;
const XLF_KERNEL_64 = 1;
const XLF_CAN_BE_LOADED_ABOVE_4G = 2;
/** The 64-bit entry lies this far into the protected-mode kernel. */
const ENTRY_64_OFFSET = 0x200;
const HEADER_START = 0x1f1;
const SECTOR = 512;

export interface BzImage {
  /** Protocol, for instance 0x020f for 2.15. */
  readonly version: number;
  /** What the kernel calls itself (`uname -r` and the rest), where it does. */
  readonly release: string | undefined;
  /** The setup header as the file has it, to be copied into boot_params at 0x1f1. A view. */
  readonly setupHeader: Uint8Array;
  /** The protected-mode kernel. A view. */
  readonly kernel: Uint8Array;
  readonly relocatable: boolean;
  readonly above4G: boolean;
  /** Where it wants to be loaded. */
  readonly preferredAddress: bigint;
  /** Power of two. */
  readonly alignment: bigint;
  /** Memory that it needs from its load address on, before it reads the memory map. */
  readonly initSize: number;
  /** Longest command line, without the NUL. */
  readonly commandLineSize: number;
  /** The last address that a byte of the initrd may have. */
  readonly initrdAddressMax: bigint;
  /** From the load address. */
  readonly entryOffset: bigint;
}

export function isBzImage(bytes: Uint8Array): boolean {
  if (bytes.byteLength < 0x208) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return view.getUint16(0x1fe, true) === BOOT_FLAG && view.getUint32(0x202, true) === HEADER_MAGIC;
}

/**
 * Reads the header of a bzImage. `bytes` must stay unchanged while the result is in use.
 * @throws KvmFormatError naming the field that is wrong, or that this kernel is too old or not for 64 bits.
 */
export function parseBzImage(bytes: Uint8Array): BzImage {
  const file = new FormatReader('bzImage', bytes);
  if (file.u16(0x1fe, 'boot_flag') !== BOOT_FLAG) throw file.error('boot_flag', 'the signature 0xaa55 is missing');
  if (file.u32(0x202, 'header') !== HEADER_MAGIC) throw file.error('header', 'the signature HdrS is missing');
  const version = file.u16(0x206, 'version');
  if (version < LEAST_VERSION)
    throw file.error('version', `${protocol(version)} is older than ${protocol(LEAST_VERSION)} (Linux 3.8)`);
  if ((file.u8(0x211, 'loadflags') & LOADED_HIGH) === 0)
    throw file.error('loadflags', 'LOADED_HIGH is not set: this is a zImage');
  const flags = file.u16(0x236, 'xloadflags');
  if ((flags & XLF_KERNEL_64) === 0)
    throw file.error('xloadflags', 'XLF_KERNEL_64 is not set: the kernel has no 64-bit entry');
  const alignment = file.u32(0x230, 'kernel_alignment');
  if (alignment === 0 || (alignment & (alignment - 1)) !== 0)
    throw file.error('kernel_alignment', `${alignment} is no power of two`);
  // 0 means 4, for kernels older than any that pass here; the field is a byte.
  const setupSectors = file.u8(0x1f1, 'setup_sects') || 4;
  const setupSize = (setupSectors + 1) * SECTOR;
  const headerEnd = 0x202 + file.u8(0x201, 'jump');
  if (headerEnd < 0x268)
    throw file.error('jump', `the setup header ends at 0x${headerEnd.toString(16)}, before its last field`);
  const kernel = file.slice(setupSize, file.length - setupSize, 'setup_sects');
  if (kernel.byteLength <= ENTRY_64_OFFSET)
    throw file.error('setup_sects', `no kernel follows the setup code of ${setupSize} bytes`);
  const initSize = file.u32(0x260, 'init_size');
  return {
    version,
    kernel,
    release: release(file),
    setupHeader: file.slice(HEADER_START, headerEnd - HEADER_START, 'setup header'),
    relocatable: file.u8(0x234, 'relocatable_kernel') !== 0,
    above4G: (flags & XLF_CAN_BE_LOADED_ABOVE_4G) !== 0,
    preferredAddress: file.u64(0x258, 'pref_address'),
    alignment: BigInt(alignment),
    initSize: Math.max(initSize, kernel.byteLength),
    commandLineSize: file.u32(0x238, 'cmdline_size'),
    initrdAddressMax: BigInt(file.u32(0x22c, 'initrd_addr_max')),
    entryOffset: BigInt(ENTRY_64_OFFSET),
  };
}

function release(file: FormatReader): string | undefined {
  const pointer = file.u16(0x20e, 'kernel_version');
  if (pointer === 0 || pointer + SECTOR >= file.length) return undefined;
  const text = file.text(pointer + SECTOR, Math.min(256, file.length - pointer - SECTOR), 'kernel_version');
  return text === '' ? undefined : text;
}

function protocol(version: number): string {
  return `protocol ${version >> 8}.${String(version & 0xff).padStart(2, '0')}`;
}
