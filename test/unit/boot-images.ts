/** Small kernel images made by hand, each field at the offset that its format's specification gives. */

export interface ElfPart {
  readonly type?: number;
  readonly gpa: number;
  readonly virtual?: bigint;
  readonly bytes: Uint8Array;
  readonly memorySize?: number;
  readonly align?: number;
}

export function elfFile(bits: 32 | 64, entry: bigint, parts: readonly ElfPart[]): Buffer {
  const headerSize = bits === 64 ? 64 : 52;
  const stride = bits === 64 ? 56 : 32;
  const file = Buffer.alloc(
    headerSize + stride * parts.length + parts.reduce((sum, { bytes }) => sum + bytes.byteLength, 0),
  );
  file.set([0x7f, 0x45, 0x4c, 0x46, bits === 64 ? 2 : 1, 1, 1]);
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(bits === 64 ? 62 : 3, 18);
  if (bits === 64) {
    file.writeBigUInt64LE(entry, 24);
    file.writeBigUInt64LE(BigInt(headerSize), 32);
    file.writeUInt16LE(stride, 54);
    file.writeUInt16LE(parts.length, 56);
  } else {
    file.writeUInt32LE(Number(entry), 24);
    file.writeUInt32LE(headerSize, 28);
    file.writeUInt16LE(stride, 42);
    file.writeUInt16LE(parts.length, 44);
  }
  let offset = headerSize + stride * parts.length;
  for (const [
    index,
    { type = 1, gpa, virtual = BigInt(gpa), bytes, memorySize = bytes.byteLength, align = 4 },
  ] of parts.entries()) {
    const at = headerSize + stride * index;
    file.writeUInt32LE(type, at);
    if (bits === 64) {
      [BigInt(offset), virtual, BigInt(gpa), BigInt(bytes.byteLength), BigInt(memorySize), BigInt(align)].forEach(
        (value, field) => file.writeBigUInt64LE(value, at + 8 + 8 * field),
      );
    } else {
      [offset, Number(virtual), gpa, bytes.byteLength, memorySize, 7, align].forEach((value, field) =>
        file.writeUInt32LE(value, at + 4 + 4 * field),
      );
    }
    file.set(bytes, offset);
    offset += bytes.byteLength;
  }
  return file;
}

export function note(name: string, type: number, description: Uint8Array): Buffer {
  const padded = (length: number): number => Math.ceil(length / 4) * 4;
  const nameBytes = Buffer.from(`${name}\0`);
  const bytes = Buffer.alloc(12 + padded(nameBytes.byteLength) + padded(description.byteLength));
  bytes.writeUInt32LE(nameBytes.byteLength, 0);
  bytes.writeUInt32LE(description.byteLength, 4);
  bytes.writeUInt32LE(type, 8);
  bytes.set(nameBytes, 12);
  bytes.set(description, 12 + padded(nameBytes.byteLength));
  return bytes;
}

/** The note by which a kernel names its PVH entry. */
export function pvhNote(entry: number): ElfPart {
  const description = Buffer.alloc(4);
  description.writeUInt32LE(entry);
  return { type: 4, gpa: 0, bytes: note('Xen', 18, description) };
}

/** One setup sector, then 0x2000 bytes of kernel that say at which offset they are. */
export function bzImageFile(change: (file: Buffer) => void = () => {}): Buffer {
  const file = Buffer.alloc(2 * 512 + 0x2000);
  file[0x1f1] = 1;
  file.writeUInt16LE(0xaa55, 0x1fe);
  file[0x200] = 0xeb;
  file[0x201] = 0x66;
  file.write('HdrS', 0x202);
  file.writeUInt16LE(0x020f, 0x206);
  file.writeUInt16LE(0x300 - 0x200, 0x20e);
  file.write('6.12.0-made-by-hand\0', 0x300);
  file[0x211] = 1;
  file.writeUInt32LE(0x7fff_ffff, 0x22c);
  file.writeUInt32LE(0x20_0000, 0x230);
  file[0x234] = 1;
  file.writeUInt16LE(0b11, 0x236);
  file.writeUInt32LE(2047, 0x238);
  file.writeBigUInt64LE(0x100_0000n, 0x258);
  file.writeUInt32LE(0x10_0000, 0x260);
  for (let at = 1024; at < file.byteLength; at += 4) file.writeUInt32LE(at - 1024, at);
  change(file);
  return file;
}

/** Where a multiboot header's address fields are wanted, in its order. */
export function multibootHeader(flags: number, addresses: readonly number[] = []): Buffer {
  const bytes = Buffer.alloc(12 + 4 * addresses.length);
  bytes.writeUInt32LE(0x1bad_b002, 0);
  bytes.writeUInt32LE(flags, 4);
  bytes.writeUInt32LE(-(0x1bad_b002 + flags) >>> 0, 8);
  addresses.forEach((address, index) => bytes.writeUInt32LE(address, 12 + 4 * index));
  return bytes;
}
