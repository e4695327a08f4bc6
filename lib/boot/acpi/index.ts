/** ACPI: what a stock kernel needs to find processors, devices, the clock and the off switch. */
import type { LaunchImage } from '../../memory/launch-image.ts';
import { LOW } from '../platform.ts';
import { dsdt } from './dsdt.ts';
import type { Devices } from './dsdt.ts';
import { fadt, madt, rsdp, xsdt } from './tables.ts';

export type { Devices } from './dsdt.ts';

export interface AcpiOptions extends Devices {
  readonly cpus: number;
}

export interface AcpiTables {
  /** Where the RSDP lies. */
  readonly rsdp: bigint;
  readonly parts: readonly { readonly name: string; readonly gpa: bigint; readonly bytes: Uint8Array }[];
}

const ALIGN = 64n;

/** All tables with their addresses, in the BIOS area, where kernels look for them. */
export function acpiTables({ cpus, ...devices }: AcpiOptions): AcpiTables {
  let next: bigint = LOW.acpi + ALIGN;
  const parts: { name: string; gpa: bigint; bytes: Uint8Array }[] = [];
  const place = (name: string, bytes: Uint8Array): bigint => {
    const gpa = next;
    next = (gpa + BigInt(bytes.byteLength) + ALIGN - 1n) & ~(ALIGN - 1n);
    if (next > LOW.acpiEnd) throw new RangeError(`The ACPI tables for ${cpus} vCPUs do not fit below 1 MiB`);
    parts.push({ name, gpa, bytes });
    return gpa;
  };
  const described = place('DSDT', dsdt(devices));
  const tables = [place('FADT', fadt(described)), place('MADT', madt(cpus))];
  const root = place('XSDT', xsdt(tables));
  parts.unshift({ name: 'RSDP', gpa: LOW.acpi, bytes: rsdp(root) });
  return { rsdp: LOW.acpi, parts };
}

/** Adds the tables to an image. */
export function addAcpiTables(image: LaunchImage, { parts }: AcpiTables): void {
  for (const part of parts) image.add(part);
}
