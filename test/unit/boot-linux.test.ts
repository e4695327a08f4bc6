import { describe, expect, it } from 'vitest';
import {
  bootBzImage,
  bootKernel,
  bootPvh,
  bootVmlinux,
  e820,
  examineKernel,
  parseElf,
  physicalEntry,
  pvhEntry,
  ramRanges,
} from '../../lib/boot/index.ts';
import type { LaunchImage } from '../../lib/boot/index.ts';
import { bzImageFile, elfFile, pvhNote } from './boot-images.ts';

const MiB = 1024 * 1024;
const ram = ramRanges(64 * MiB);
const machine = { ram, memoryMap: e820(ram) };

function part(image: LaunchImage, name: string) {
  const found = image.parts.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no ${name} among ${image.parts.map((one) => one.name).join(', ')}`);
  return { ...found, view: new DataView(found.bytes.buffer, found.bytes.byteOffset, found.bytes.byteLength) };
}

describe('a bzImage', () => {
  it('is loaded where it wants to be, and entered in 64-bit mode', () => {
    const image = bootBzImage(bzImageFile(), machine);
    expect(part(image, 'kernel')).toMatchObject({ gpa: 0x100_0000n, size: 0x10_0000, kind: 'normal' });
    expect(part(image, 'kernel').view.getUint32(0x200, true)).toBe(0x200);
    expect(image.vcpu?.regs).toEqual({ rip: 0x100_0200n, rsi: 0x7000n, rflags: 2n });
    expect(image.vcpu?.sregs).toMatchObject({
      cs: { selector: 0x10, l: true, db: false },
      ds: { selector: 0x18 },
      efer: 0x500n,
    });
  });

  it('goes lower where memory ends before that', () => {
    const small = ramRanges(8 * MiB);
    const image = bootBzImage(bzImageFile(), { ram: small, memoryMap: e820(small) });
    expect(part(image, 'kernel').gpa).toBe(0x20_0000n);
    const tiny = ramRanges(2 * MiB);
    expect(() => bootBzImage(bzImageFile(), { ram: tiny, memoryMap: e820(tiny) })).toThrow(RangeError);
    const fixed = bzImageFile((file) => {
      file[0x234] = 0;
    });
    expect(() => bootBzImage(fixed, { ram: small, memoryMap: e820(small) })).toThrow(/give the guest more memory/);
  });

  it('has its setup header, memory map, command line and initrd in boot_params', () => {
    const initrd = new Uint8Array(5000).fill(7);
    const { view, bytes } = part(
      bootBzImage(bzImageFile(), { ...machine, cmdline: 'quiet', initrd, rsdp: 0xe0000n }),
      'boot_params',
    );
    expect(Buffer.from(bytes.subarray(0x202, 0x206)).toString()).toBe('HdrS');
    expect(view.getUint8(0x210)).toBe(0xff);
    expect(view.getUint32(0x228, true)).toBe(0x20000);
    expect(view.getUint32(0x21c, true)).toBe(5000);
    expect(view.getUint32(0x218, true)).toBe(64 * MiB - 8192);
    expect(view.getBigUint64(0x70, true)).toBe(0xe0000n);
    expect(view.getUint8(0x1e8)).toBe(machine.memoryMap.length);
    expect([view.getBigUint64(0x2d0, true), view.getBigUint64(0x2d8, true), view.getUint32(0x2e0, true)]).toEqual([
      0n,
      0x9fc00n,
      1,
    ]);
  });

  it('keeps its initrd below the address that it names', () => {
    const image = bootBzImage(
      bzImageFile((file) => file.writeUInt32LE(0x27f_ffff, 0x22c)),
      { ...machine, initrd: new Uint8Array(4096) },
    );
    expect(part(image, 'initrd').gpa).toBe(0x27f_f000n);
  });

  it('takes a command line of its own length and no longer', () => {
    const file = bzImageFile((bytes) => bytes.writeUInt32LE(10, 0x238));
    expect(part(bootBzImage(file, { ...machine, cmdline: '0123456789' }), 'command line').bytes).toEqual(
      Buffer.from('0123456789\0'),
    );
    expect(() => bootBzImage(file, { ...machine, cmdline: '0123456789a' })).toThrow(
      'Expected at most 10 bytes for cmdline',
    );
    expect(() => bootBzImage(file, { ...machine, cmdline: 'a\nb' })).toThrow('line end');
  });

  it.each([
    ['boot_flag', (file: Buffer) => file.writeUInt16LE(0, 0x1fe)],
    ['header', (file: Buffer) => file.write('hdrs', 0x202)],
    ['version', (file: Buffer) => file.writeUInt16LE(0x0204, 0x206)],
    ['loadflags', (file: Buffer) => file.writeUInt8(0, 0x211)],
    ['xloadflags', (file: Buffer) => file.writeUInt16LE(2, 0x236)],
    ['kernel_alignment', (file: Buffer) => file.writeUInt32LE(3, 0x230)],
    ['setup_sects', (file: Buffer) => file.writeUInt8(200, 0x1f1)],
    ['jump', (file: Buffer) => file.writeUInt8(0x10, 0x201)],
  ])('with a wrong %s is refused by that name', (field, change) => {
    const file = bzImageFile(change);
    expect(() => bootBzImage(file, machine)).toThrow(
      expect.objectContaining({ code: 'ERR_KVM_FORMAT', format: 'bzImage', field }),
    );
  });

  it('is known by its signature, and tells its release', () => {
    expect(examineKernel(bzImageFile())).toEqual({
      format: 'bzImage',
      protocols: ['linux'],
      release: '6.12.0-made-by-hand',
    });
  });
});

describe('an ELF kernel', () => {
  const code = new Uint8Array(0x1000).fill(0x90);
  const file = elfFile(64, 0x100_0010n, [
    { gpa: 0x100_0000, virtual: 0xffff_ffff_8100_0000n, bytes: code, memorySize: 0x3000 },
    { gpa: 0x120_0000, virtual: 0xffff_ffff_8120_0000n, bytes: code },
    pvhNote(0x100_0020),
  ]);

  it('is loaded by physical address and entered in 64-bit mode', () => {
    const image = bootVmlinux(file, machine);
    expect(part(image, 'kernel segment 0')).toMatchObject({ gpa: 0x100_0000n, size: 0x3000 });
    expect(part(image, 'kernel segment 1').gpa).toBe(0x120_0000n);
    expect(image.vcpu?.regs).toMatchObject({ rip: 0x100_0010n, rsi: 0x7000n });
    expect(part(image, 'boot_params').view.getUint16(0x1fe, true)).toBe(0xaa55);
  });

  it('may name its entry by virtual address', () => {
    expect(
      physicalEntry(
        parseElf(
          elfFile(64, 0xffff_ffff_8100_0040n, [{ gpa: 0x100_0000, virtual: 0xffff_ffff_8100_0000n, bytes: code }]),
        ),
      ),
    ).toBe(0x100_0040n);
    const nowhere = elfFile(64, 0x5n, [{ gpa: 0x100_0000, bytes: code }]);
    expect(() => bootVmlinux(nowhere, machine)).toThrow(expect.objectContaining({ field: 'e_entry' }));
  });

  it('starts by PVH at the entry of its note, in 32-bit mode', () => {
    const image = bootPvh(file, { ...machine, cmdline: 'quiet', initrd: new Uint8Array(100), rsdp: 0xe0000n });
    expect(image.vcpu?.regs).toMatchObject({ rip: 0x100_0020n, rbx: 0x6000n });
    expect(image.vcpu?.sregs).toMatchObject({ cr0: 0x11n, efer: 0n, cs: { db: true, l: false } });
    const { view } = part(image, 'hvm_start_info');
    expect([view.getUint32(0, true), view.getUint32(4, true), view.getUint32(12, true)]).toEqual([0x336ec578, 1, 1]);
    expect(view.getBigUint64(24, true)).toBe(0x20000n);
    expect(view.getBigUint64(32, true)).toBe(0xe0000n);
    const module = Number(view.getBigUint64(16, true)) - 0x6000;
    expect([view.getBigUint64(module, true), view.getBigUint64(module + 8, true)]).toEqual([
      BigInt(64 * MiB - 4096),
      100n,
    ]);
    const map = Number(view.getBigUint64(40, true)) - 0x6000;
    expect(view.getUint32(48, true)).toBe(machine.memoryMap.length);
    expect([view.getBigUint64(map + 8, true), view.getUint32(map + 16, true)]).toEqual([0x9fc00n, 1]);
  });

  it('without the note has no PVH entry', () => {
    const plain = elfFile(64, 0x100_0000n, [{ gpa: 0x100_0000, bytes: code }]);
    expect(pvhEntry(parseElf(plain))).toBeUndefined();
    expect(() => bootPvh(plain, machine)).toThrow(/CONFIG_PVH/);
    expect(examineKernel(plain).protocols).toEqual(['linux']);
    expect(examineKernel(file).protocols).toEqual(['linux', 'pvh']);
    expect(() => bootKernel(plain, { ...machine, protocol: 'pvh' })).toThrow(
      /Expected one of linux, flat for protocol/,
    );
  });

  it('that overlaps itself, or lies where boot data does, or beyond memory, is refused', () => {
    const at = (...gpas: number[]) =>
      elfFile(
        64,
        BigInt(gpas[0]!),
        gpas.map((gpa) => ({ gpa, bytes: code })),
      );
    expect(() => bootVmlinux(at(0x100_0000, 0x100_0800), machine)).toThrow(
      expect.objectContaining({ code: 'ERR_KVM_OVERLAP' }),
    );
    expect(() => bootVmlinux(at(0x8000), machine)).toThrow(/below 0x100000/);
    expect(() => bootVmlinux(at(64 * MiB - 0x800), machine)).toThrow(/there is only 0x0-0x4000000/);
  });
});
