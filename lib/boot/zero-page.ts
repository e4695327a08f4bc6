/** struct boot_params, the page by which Linux learns of its machine (*Zero Page*, *The Linux/x86 Boot Protocol*). */
import type { E820Entry } from './memory-map.ts';

const PAGE = 4096;
const E820_AT = 0x2d0;
const E820_MAX = 128;
const SETUP_HEADER_AT = 0x1f1;
/** A boot loader without a number of its own. */
const LOADER_UNDEFINED = 0xff;

export interface ZeroPageFields {
  /** As the kernel's file has it, or undefined for an ELF kernel, which has none. */
  readonly setupHeader?: Uint8Array;
  readonly memoryMap: readonly E820Entry[];
  readonly commandLine: bigint;
  /** In bytes, without the NUL. */
  readonly commandLineSize: number;
  readonly initrd?: { readonly gpa: bigint; readonly size: number } | undefined;
  readonly rsdp?: bigint | undefined;
}

/** @throws RangeError for a memory map of more than 128 entries. */
export function zeroPage({
  setupHeader,
  memoryMap,
  commandLine,
  commandLineSize,
  initrd,
  rsdp = 0n,
}: ZeroPageFields): Uint8Array {
  if (memoryMap.length > E820_MAX)
    throw new RangeError(`Expected at most ${E820_MAX} entries in the memory map but received ${memoryMap.length}`);
  const bytes = new Uint8Array(PAGE);
  const view = new DataView(bytes.buffer);
  const split = (value: bigint, low: number, high: number): void => {
    view.setUint32(low, Number(value & 0xffff_ffffn), true);
    view.setUint32(high, Number(value >> 32n), true);
  };
  if (setupHeader === undefined) ownSetupHeader(view, commandLineSize);
  else bytes.set(setupHeader.subarray(0, E820_AT - SETUP_HEADER_AT), SETUP_HEADER_AT);
  view.setBigUint64(0x070, rsdp, true); // acpi_rsdp_addr
  view.setUint8(0x1e8, memoryMap.length); // e820_entries
  view.setUint16(0x1fa, 0xffff, true); // vid_mode: leave the screen as it is
  view.setUint8(0x210, LOADER_UNDEFINED); // type_of_loader
  split(commandLine, 0x228, 0x0c8); // cmd_line_ptr, ext_cmd_line_ptr
  split(initrd?.gpa ?? 0n, 0x218, 0x0c0); // ramdisk_image, ext_ramdisk_image
  split(BigInt(initrd?.size ?? 0), 0x21c, 0x0c4); // ramdisk_size, ext_ramdisk_size
  view.setBigUint64(0x250, 0n, true); // setup_data: none
  memoryMap.forEach(({ gpa, size, type }, index) => {
    const at = E820_AT + 20 * index;
    view.setBigUint64(at, gpa, true);
    view.setBigUint64(at + 8, size, true);
    view.setUint32(at + 16, type, true);
  });
  return bytes;
}

/** What an ELF kernel reads of a setup header. */
function ownSetupHeader(view: DataView, commandLineSize: number): void {
  view.setUint16(0x1fe, 0xaa55, true); // boot_flag
  view.setUint32(0x202, 0x5372_6448, true); // header
  view.setUint16(0x206, 0x020f, true); // version
  view.setUint8(0x211, 1); // loadflags: LOADED_HIGH
  view.setUint32(0x22c, 0x7fff_ffff, true); // initrd_addr_max
  view.setUint32(0x230, 0x0100_0000, true); // kernel_alignment
  view.setUint32(0x238, commandLineSize, true); // cmdline_size
}
