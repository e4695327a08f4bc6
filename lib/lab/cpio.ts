/** A writer of `newc` cpio archives, the format of a Linux initramfs (Documentation, *early-userspace/buffer-format*). */

export interface CpioEntry {
  /** Without a leading slash. */
  readonly name: string;
  /** File type and permissions, as in st_mode. */
  readonly mode: number;
  readonly data?: Uint8Array;
  /** Major and minor number of a device node. */
  readonly device?: readonly [number, number];
}

export const FILE = 0o100000;
export const DIRECTORY = 0o040000;
export const CHARACTER_DEVICE = 0o020000;

/** The archive's bytes. Owner root, time 0: the same entries always give the same bytes. */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts = [...entries, { name: 'TRAILER!!!', mode: 0 }].flatMap((entry, index) => writeEntry(entry, index + 1));
  return Buffer.concat(parts);
}

function writeEntry({ name, mode, data = new Uint8Array(), device: [major, minor] = [0, 0] }: CpioEntry, inode: number): Buffer[] {
  const nameBytes = Buffer.from(`${name}\0`);
  const links = 1;
  const fields = [inode, mode, 0, 0, links, 0, data.byteLength, 0, 0, major, minor, nameBytes.byteLength, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
  return [header, nameBytes, padding(header.byteLength + nameBytes.byteLength), Buffer.from(data), padding(data.byteLength)];
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
