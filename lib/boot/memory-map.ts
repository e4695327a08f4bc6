/** Where guest RAM lies, and what a guest is told of it (E820). */
import { HOLE_END, HOLE_START, LOW } from './platform.ts';
import { pageAlignedSize } from '../arguments.ts';

export interface RamRange {
  readonly gpa: bigint;
  readonly size: number;
}

/** RAM of a guest: all below 3 GiB, and what does not fit there from 4 GiB on. */
export function ramRanges(memory: number): RamRange[] {
  pageAlignedSize('memory', memory);
  const low = Math.min(memory, Number(HOLE_START));
  const ranges: RamRange[] = [{ gpa: 0n, size: low }];
  if (memory > low) ranges.push({ gpa: HOLE_END, size: memory - low });
  return ranges;
}

/** Types of a range in the BIOS's memory map. */
export const E820_RAM = 1;
export const E820_RESERVED = 2;

export interface E820Entry {
  readonly gpa: bigint;
  readonly size: bigint;
  readonly type: number;
}

/** The memory map for a guest with these ranges of RAM, of which the first begins at 0. */
export function e820(ram: readonly RamRange[]): E820Entry[] {
  const entry = (gpa: bigint, end: bigint, type: number): E820Entry => ({ gpa, size: end - gpa, type });
  const entries: E820Entry[] = [];
  for (const { gpa, size } of ram) {
    const end = gpa + BigInt(size);
    if (gpa !== 0n) {
      entries.push(entry(gpa, end, E820_RAM));
      continue;
    }
    entries.push(entry(0n, min(end, LOW.extendedBiosData), E820_RAM));
    if (end <= LOW.extendedBiosData) continue;
    entries.push(entry(LOW.extendedBiosData, LOW.extendedBiosDataEnd, E820_RESERVED));
    entries.push(entry(LOW.acpi, LOW.acpiEnd, E820_RESERVED));
    if (end > LOW.acpiEnd) entries.push(entry(LOW.acpiEnd, end, E820_RAM));
  }
  return entries;
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
