/** Who answers at which address: ranges that never overlap, and what an access to none of them gives. */
import { KvmError } from '../errors.ts';
import type { MmioDevice, PortDevice } from './ports.ts';

interface Range<D> {
  readonly start: number;
  readonly end: number;
  readonly device: D;
}

/** A map from addresses to devices; the last one found is tried first. */
class AddressMap<D extends { readonly name: string }> {
  readonly #what: string;
  readonly #ranges: Range<D>[] = [];
  #last: Range<D> | undefined;

  constructor(what: string) {
    this.#what = what;
  }

  get ranges(): readonly Range<D>[] {
    return this.#ranges;
  }

  add(start: number, size: number, device: D): void {
    const end = start + size;
    const other = this.#ranges.find((range) => range.start < end && start < range.end);
    if (other !== undefined) {
      throw new KvmError(
        `${device.name} at ${this.#what} 0x${start.toString(16)} would overlap with ${other.device.name}`,
        'ERR_KVM_OVERLAP',
      );
    }
    this.#ranges.push({ start, end, device });
    this.#ranges.sort((a, b) => a.start - b.start);
  }

  find(address: number): Range<D> | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.start && address < last.end) return last;
    return (this.#last = this.#ranges.find((range) => address >= range.start && address < range.end));
  }
}

/**
 * I/O ports. A read of a port without a device gives ones, as an empty ISA bus does; a write to it is lost. An access
 * that begins in a device belongs to it whole.
 */
export class PortBus {
  readonly #map = new AddressMap<PortDevice>('port');

  /** @throws KvmError `ERR_KVM_OVERLAP` where another device has one of these ports. */
  add(port: number, size: number, device: PortDevice): void {
    this.#map.add(port, size, device);
  }

  get ranges(): readonly { readonly start: number; readonly end: number; readonly device: PortDevice }[] {
    return this.#map.ranges;
  }

  /** One access or a string of them (`rep outsb`): `data` holds `count` items of `size` bytes. */
  access(direction: 'in' | 'out', port: number, size: number, data: Uint8Array): void {
    const range = this.#map.find(port);
    if (range === undefined) {
      if (direction === 'in') data.fill(0xff);
      return;
    }
    const { device } = range;
    const offset = port - range.start;
    for (let at = 0; at + size <= data.byteLength; at += size) {
      if (direction === 'out') device.writePort(offset, size, load(data, at, size));
      else store(data, at, size, device.readPort(offset, size));
    }
  }
}

/** Windows of guest physical addresses. A read where there is no device gives ones; a write there is lost. */
export class MmioBus {
  readonly #map = new AddressMap<MmioDevice>('gpa');

  /** @throws KvmError `ERR_KVM_OVERLAP` where another device has one of these addresses. */
  add(gpa: bigint, size: number, device: MmioDevice): void {
    this.#map.add(Number(gpa), size, device);
  }

  get ranges(): readonly { readonly start: number; readonly end: number; readonly device: MmioDevice }[] {
    return this.#map.ranges;
  }

  access(direction: 'read' | 'write', gpa: bigint, data: Uint8Array): void {
    const address = Number(gpa);
    const range = this.#map.find(address);
    if (range === undefined) {
      if (direction === 'read') data.fill(0xff);
      return;
    }
    if (direction === 'read') range.device.readMmio(address - range.start, data);
    else range.device.writeMmio(address - range.start, data);
  }
}

function load(data: Uint8Array, at: number, size: number): number {
  let value = 0;
  for (let index = size - 1; index >= 0; index--) value = value * 256 + data[at + index]!;
  return value;
}

function store(data: Uint8Array, at: number, size: number, value: number): void {
  for (let index = 0; index < size; index++) data[at + index] = value >>> (8 * index);
}
