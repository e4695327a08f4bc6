/** The two small interfaces by which a device knows its machine, and the one by which the machine knows a device. */

/** An interrupt input of the guest's interrupt controller. */
export interface InterruptLine {
  /** Level of the line. A device that pulses it (edge triggered) sets it to true and back to false. */
  set(level: boolean): void;
}

/** A line that is connected to nothing. */
export const UNCONNECTED: InterruptLine = { set() {} };

/**
 * Guest RAM as a device reaches it. Addresses are numbers here: below 2^52, so exact, and on the path of every request.
 */
export interface DeviceMemory {
  /**
   * The bytes from gpa on, as live views of RAM, in order; undefined where one of them is not RAM. Mostly one view:
   * more where the range goes over the border of two regions. They are valid until memory is taken away, and the guest
   * may change them at any moment: copy, check, then use.
   */
  views(gpa: number, size: number): Uint8Array[] | undefined;
}

/** A device behind I/O ports. Offsets count from its first port. */
export interface PortDevice {
  readonly name: string;
  /** @param size 1, 2 or 4 bytes @returns the value, of which the low `size` bytes count */
  readPort(offset: number, size: number): number;
  writePort(offset: number, size: number, value: number): void;
}

/** A device behind a window of guest physical addresses. */
export interface MmioDevice {
  readonly name: string;
  /** Fills `data`, 1 to 8 bytes. */
  readMmio(offset: number, data: Uint8Array): void;
  writeMmio(offset: number, data: Uint8Array): void;
}
