/** The MP table (Intel MultiProcessor Specification 1.4): processors and interrupts for kernels without ACPI. */
import { IOAPIC_ADDRESS, LAPIC_ADDRESS, LOW } from './platform.ts';
import { checksum } from './acpi/tables.ts';

const FLOATING_POINTER_SIZE = 16;
const HEADER_SIZE = 44;
/** The table must end before the extended BIOS data area does. */
const ROOM = Number(LOW.extendedBiosDataEnd - LOW.extendedBiosData);
const APIC_VERSION = 0x14;
const ENABLED = 1;
const BOOT_PROCESSOR = 2;
const ISA_INTERRUPTS = 16;

/** What fits into the kibibyte below 640 KiB with the bus and interrupt entries. */
export const MP_TABLE_MAX_CPUS = Math.floor(
  (ROOM - FLOATING_POINTER_SIZE - HEADER_SIZE - 8 - 8 - 8 * ISA_INTERRUPTS - 16) / 20,
);

/**
 * The floating pointer and the table behind it, for {@link LOW}.extendedBiosData, where kernels look.
 * @throws RangeError for more vCPUs than fit ({@link MP_TABLE_MAX_CPUS}): ACPI takes more.
 */
export function mpTable(cpus: number): Uint8Array {
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > MP_TABLE_MAX_CPUS) {
    throw new RangeError(
      `Expected 1 to ${MP_TABLE_MAX_CPUS} vCPUs for an MP table but received ${cpus}; ACPI takes more`,
    );
  }
  const ioapic = cpus;
  const u32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
  const entries: number[][] = [];
  for (let id = 0; id < cpus; id++) {
    // Family 6 and an APIC on the chip: kernels read the rest from CPUID.
    entries.push([
      0,
      id,
      APIC_VERSION,
      ENABLED | (id === 0 ? BOOT_PROCESSOR : 0),
      ...u32(0x600),
      ...u32(0x200 | 1),
      ...u32(0),
      ...u32(0),
    ]);
  }
  entries.push([1, 0, ...Buffer.from('ISA   ')]);
  entries.push([2, ioapic, 0x11, ENABLED, ...u32(IOAPIC_ADDRESS)]);
  for (let irq = 0; irq < ISA_INTERRUPTS; irq++) {
    // The cascade of the two PICs is no interrupt; the timer goes to pin 2 in its place.
    if (irq !== 2) entries.push([3, 0, 0, 0, 0, irq, ioapic, irq === 0 ? 2 : irq]);
  }
  entries.push([4, 3, 0, 0, 0, 0, 0xff, 0]); // ExtINT at local input 0
  entries.push([4, 1, 0, 0, 0, 0, 0xff, 1]); // NMI at local input 1
  const body = entries.flat();
  const bytes = new Uint8Array(FLOATING_POINTER_SIZE + HEADER_SIZE + body.length);
  bytes.set(floatingPointer(Number(LOW.extendedBiosData) + FLOATING_POINTER_SIZE), 0);
  bytes.set(header(body, entries.length), FLOATING_POINTER_SIZE);
  bytes.set(body, FLOATING_POINTER_SIZE + HEADER_SIZE);
  const table = bytes.subarray(FLOATING_POINTER_SIZE);
  table[7] = checksum(table);
  return bytes;
}

function floatingPointer(table: number): Uint8Array {
  const bytes = new Uint8Array(FLOATING_POINTER_SIZE);
  bytes.set(Buffer.from('_MP_'));
  new DataView(bytes.buffer).setUint32(4, table, true);
  bytes[8] = 1; // in units of 16 bytes
  bytes[9] = 4; // specification 1.4
  bytes[10] = checksum(bytes);
  return bytes;
}

function header(body: readonly number[], entries: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from('PCMP'));
  view.setUint16(4, HEADER_SIZE + body.length, true);
  bytes[6] = 4;
  bytes.set(Buffer.from('NODE-KVM'.padEnd(20)), 8);
  view.setUint16(34, entries, true);
  view.setUint32(36, LAPIC_ADDRESS, true);
  return bytes;
}
