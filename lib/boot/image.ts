/** What every boot protocol is given, and what they have in common. */
import type { LaunchImage } from '../memory/launch-image.ts';
import { hex } from '../memory/layout.ts';
import type { E820Entry, RamRange } from './memory-map.ts';
import { HIGH_MEMORY } from './platform.ts';

/** A guest to be, apart from its kernel. */
export interface BootOptions {
  readonly ram: readonly RamRange[];
  readonly memoryMap: readonly E820Entry[];
  /** Default: empty. */
  readonly cmdline?: string;
  /** Linux: the initramfs. Multiboot: the first module. */
  readonly initrd?: Uint8Array;
  /** Where the RSDP lies, for kernels that are told. */
  readonly rsdp?: bigint;
}

/** RAM that begins at 0, up to the first hole. */
export function lowRamEnd(ram: readonly RamRange[]): bigint {
  const first = ram.find(({ gpa }) => gpa === 0n);
  return first === undefined ? 0n : BigInt(first.size);
}

/** Throws unless [gpa, gpa + size) is RAM from 1 MiB on: what lies lower is for the boot data. */
export function needHighRam(what: string, gpa: bigint, size: number, ram: readonly RamRange[]): void {
  const end = gpa + BigInt(size);
  if (gpa < HIGH_MEMORY)
    throw new RangeError(
      `${what} wants to be at ${hex(gpa)}, below ${hex(HIGH_MEMORY)}, where boot data and the BIOS area lie`,
    );
  if (ram.some((range) => gpa >= range.gpa && end <= range.gpa + BigInt(range.size))) return;
  const all = ram.map((range) => `${hex(range.gpa)}-${hex(range.gpa + BigInt(range.size))}`).join(', ');
  throw new RangeError(
    `${what} needs guest memory at ${hex(gpa)}-${hex(end)}, and there is only ${all}: give the guest more memory`,
  );
}

/** The highest page-aligned place below `limit` (an address after the last byte) for `size` bytes, above `floor`. */
export function placeHigh(what: string, size: number, floor: bigint, limit: bigint): bigint {
  const gpa = (limit - BigInt(size)) & ~0xfffn;
  if (gpa >= floor) return gpa;
  throw new RangeError(
    `${what} of ${size} bytes does not fit between the kernel's end at ${hex(floor)} and ${hex(limit)}: ` +
      'give the guest more memory',
  );
}

export function pageAlign(address: bigint): bigint {
  return (address + 0xfffn) & ~0xfffn;
}

/** Puts the initrd as high as it may go, and gives its address; undefined where there is none. */
export function addInitrd(
  image: LaunchImage,
  initrd: Uint8Array | undefined,
  floor: bigint,
  limit: bigint,
): bigint | undefined {
  if (initrd === undefined || initrd.byteLength === 0) return undefined;
  const gpa = placeHigh('initrd', initrd.byteLength, pageAlign(floor), limit);
  image.add({ name: 'initrd', gpa, bytes: initrd });
  return gpa;
}
