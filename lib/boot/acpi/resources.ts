/** Resource descriptors of a device: the content of _CRS (ACPI 6.5, 6.4). */
import { buffer, little } from './aml.ts';

type Bytes = readonly number[];

const END_TAG = 0x79;

/** `ResourceTemplate () { ... }` */
export function resources(descriptors: readonly Bytes[]): Bytes {
  // A checksum of 0 means: not used.
  return buffer([...descriptors.flat(), END_TAG, 0]);
}

/** `IO (Decode16, port, port, 1, length)` */
export function ioPorts(port: number, length: number): Bytes {
  return [0x47, 0x01, ...little(port, 2), ...little(port, 2), 1, length];
}

/** `Memory32Fixed (ReadWrite, gpa, size)` */
export function memory32(gpa: bigint, size: number): Bytes {
  return [0x86, ...little(9, 2), 1, ...little(gpa, 4), ...little(size, 4)];
}

/** `IRQNoFlags () { irq }`: an ISA interrupt, edge triggered, active high. */
export function isaInterrupt(irq: number): Bytes {
  return [0x22, ...little(1 << irq, 2)];
}

const CONSUMER = 1 << 0;
const EDGE = 1 << 1;

/** `Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }` */
export function edgeInterrupt(gsi: number): Bytes {
  return [0x89, ...little(6, 2), CONSUMER | EDGE, 1, ...little(gsi, 4)];
}
