/** The fixed tables: how the machine is found, its processors and its power registers (ACPI 6.5, chapter 5). */
import { GSIS, IOAPIC_ADDRESS, LAPIC_ADDRESS, PORTS, RESET_VALUE } from '../platform.ts';

const HEADER_SIZE = 36;
const OEM = 'NDKVM ';

/** A table with its header, length and checksum. */
export function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + body.byteLength);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(signature), 0);
  view.setUint32(4, bytes.byteLength, true);
  bytes[8] = revision;
  bytes.set(Buffer.from(OEM), 10);
  bytes.set(Buffer.from('NODE-KVM'), 16);
  view.setUint32(24, 1, true); // OEM revision
  bytes.set(Buffer.from('NKVM'), 28); // who made it
  view.setUint32(32, 1, true);
  bytes.set(body, HEADER_SIZE);
  bytes[9] = checksum(bytes);
  return bytes;
}

/** The byte that makes the sum 0. */
export function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}

/** Root system description pointer, revision 2. */
export function rsdp(xsdt: bigint): Uint8Array {
  const bytes = new Uint8Array(36);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from('RSD PTR '), 0);
  bytes.set(Buffer.from(OEM), 9);
  bytes[15] = 2;
  view.setUint32(20, bytes.byteLength, true);
  view.setBigUint64(24, xsdt, true);
  bytes[8] = checksum(bytes.subarray(0, 20));
  bytes[32] = checksum(bytes);
  return bytes;
}

export function xsdt(tables: readonly bigint[]): Uint8Array {
  const body = new Uint8Array(8 * tables.length);
  const view = new DataView(body.buffer);
  tables.forEach((gpa, index) => view.setBigUint64(8 * index, gpa, true));
  return table('XSDT', 1, body);
}

const FADT_SIZE = 276;
/** WBINVD works, halting is C1, no fixed button for sleep, a reset register, a timer of 32 bits. */
const FADT_FLAGS = (1 << 0) | (1 << 2) | (1 << 5) | (1 << 8) | (1 << 10);
/** ISA devices, an i8042; no VGA, no PCI express power management. */
const BOOT_ARCHITECTURE = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 4);

/** Fixed description: the power registers on I/O ports, already in ACPI mode (no SMI to enter it). */
export function fadt(dsdt: bigint): Uint8Array {
  const body = new Uint8Array(FADT_SIZE - HEADER_SIZE);
  const view = new DataView(body.buffer);
  const u8 = (offset: number, value: number): void => view.setUint8(offset - HEADER_SIZE, value);
  const u16 = (offset: number, value: number): void => view.setUint16(offset - HEADER_SIZE, value, true);
  const u32 = (offset: number, value: number): void => view.setUint32(offset - HEADER_SIZE, value, true);
  const ioRegister = (offset: number, port: number, bits: number): void => {
    u8(offset, 1); // system I/O
    u8(offset + 1, bits);
    u8(offset + 3, { 8: 1, 16: 2, 32: 3 }[bits] ?? 0); // access size
    view.setBigUint64(offset + 4 - HEADER_SIZE, BigInt(port), true);
  };
  u32(40, Number(dsdt));
  u16(46, GSIS.sci);
  u32(56, PORTS.pm1Event);
  u32(64, PORTS.pm1Control);
  u32(76, PORTS.pmTimer);
  u8(88, 4); // PM1_EVT_LEN
  u8(89, 2); // PM1_CNT_LEN
  u8(91, 4); // PM_TMR_LEN
  u16(96, 0xffff); // no C2
  u16(98, 0xffff); // no C3
  u8(108, 0x32); // century in the clock's memory
  u16(109, BOOT_ARCHITECTURE);
  u32(112, FADT_FLAGS);
  ioRegister(116, PORTS.reset, 8);
  u8(128, RESET_VALUE);
  u8(131, 5); // minor version
  view.setBigUint64(140 - HEADER_SIZE, dsdt, true);
  ioRegister(148, PORTS.pm1Event, 32);
  ioRegister(172, PORTS.pm1Control, 16);
  ioRegister(208, PORTS.pmTimer, 32);
  return table('FACP', 6, body);
}

const MADT_PC_COMPATIBLE = 1;
/** Local APIC ids from 255 on need entries of another kind. */
const X2APIC_FROM = 255;
const LEVEL_HIGH = 0b1101;

/** Interrupt controllers and processors; APIC ids are the vCPU ids. */
export function madt(cpus: number): Uint8Array {
  const entries: number[][] = [];
  const u32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
  for (let id = 0; id < cpus; id++) {
    entries.push(id < X2APIC_FROM ? [0, 8, id, id, ...u32(1)] : [9, 16, 0, 0, ...u32(id), ...u32(1), ...u32(id)]);
  }
  entries.push([1, 12, 0, 0, ...u32(IOAPIC_ADDRESS), ...u32(0)]);
  // The timer's ISA interrupt 0 is at GSI 2, as on every PC; ACPI's own interrupt is level triggered, active high.
  entries.push([2, 10, 0, 0, ...u32(2), 0, 0]);
  entries.push([2, 10, 0, GSIS.sci, ...u32(GSIS.sci), LEVEL_HIGH, 0]);
  // NMI of all processors at local input 1.
  entries.push([4, 6, 0xff, 0, 0, 1]);
  return table('APIC', 5, Uint8Array.from([...u32(LAPIC_ADDRESS), ...u32(MADT_PC_COMPATIBLE), ...entries.flat()]));
}
