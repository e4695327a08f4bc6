import { describe, expect, it } from 'vitest';
import { bootFlat, bootMultiboot, e820, findMultibootHeader, ramRanges } from '../../lib/boot/index.ts';
import { elfFile, multibootHeader } from './boot-images.ts';

const ram = ramRanges(16 * 1024 * 1024);
const machine = { ram, memoryMap: e820(ram) };
const code = new Uint8Array(0x100).fill(0x90);

describe('a multiboot image', () => {
  const elf = elfFile(32, 0x40_000cn, [
    { gpa: 0x40_0000, bytes: Buffer.concat([multibootHeader(0b11), code]), memorySize: 0x5000 },
  ]);

  it("as 32-bit ELF is entered with the loader's magic number", () => {
    const image = bootMultiboot(elf, machine);
    expect(image.vcpu?.regs).toEqual({ rip: 0x40_000cn, rax: 0x2bad_b002n, rbx: 0x6000n, rflags: 2n });
    expect(image.vcpu?.sregs).toMatchObject({ cr0: 0x11n, cs: { db: true, l: false, limit: 0xffff_ffff } });
    expect(image.parts[0]).toMatchObject({ gpa: 0x40_0000n, size: 0x5000 });
  });

  it('is told of memory, its command line and its module', () => {
    const module = Buffer.from('NR_CPUS=4\n');
    const image = bootMultiboot(elf, { ...machine, cmdline: 'test.flat -v', initrd: module });
    const bytes = (name: string): Uint8Array => image.parts.find((part) => part.name === name)!.bytes;
    const info = bytes('multiboot information');
    const view = new DataView(info.buffer, info.byteOffset);
    const word = (offset: number): number => view.getUint32(offset, true);
    expect(word(0) & 0b1001101).toBe(0b1001101);
    expect([word(4), word(8)]).toEqual([639, 15 * 1024]);
    expect(Buffer.from(bytes('command line')).toString()).toBe('test.flat -v\0');
    expect(word(16)).toBe(0x20000);
    expect(word(20)).toBe(1);
    const entry = word(24) - 0x6000;
    const gpa = image.parts.find((part) => part.name === 'module')!.gpa;
    expect(gpa).toBe(0x40_5000n);
    expect([word(entry), word(entry + 4)]).toEqual([Number(gpa), Number(gpa) + module.byteLength]);
    expect(info[word(entry + 8) - 0x6000]).toBe(0);
    const map = word(48) - 0x6000;
    expect(word(44)).toBe(24 * machine.memoryMap.length);
    expect([word(map), view.getBigUint64(map + 12, true), word(map + 20)]).toEqual([20, 0x9fc00n, 1]);
  });

  it('as a flat file goes where its header says', () => {
    const header = multibootHeader(1 << 16, [0x10_0010, 0x10_0000, 0x10_0000 + 0x80, 0x10_1000, 0x10_0040]);
    const file = Buffer.concat([Buffer.alloc(0x30), header, code]);
    const image = bootMultiboot(file, machine);
    // The header is 0x10 bytes into what is loaded, so that begins 0x10 before it in the file.
    expect(image.parts[0]).toMatchObject({ gpa: 0x10_0000n, size: 0x1000 });
    expect(image.parts[0]!.bytes).toEqual(file.subarray(0x20, 0xa0));
    expect(image.vcpu?.regs.rip).toBe(0x10_0040n);
  });

  it.each([
    ['flags', multibootHeader(1 << 2)],
    ['load_addr', multibootHeader(1 << 16, [0x10_0000, 0x10_0010, 0, 0, 0x10_0000])],
    ['header_addr', multibootHeader(1 << 16, [0x10_0010, 0x10_0000, 0, 0, 0x10_0000])],
    ['load_end_addr', multibootHeader(1 << 16, [0x10_0000, 0x10_0000, 0x20_0000, 0, 0x10_0000])],
    ['bss_end_addr', multibootHeader(1 << 16, [0x10_0000, 0x10_0000, 0x10_0010, 0x10_0008, 0x10_0000])],
  ])('with wrong %s is refused by that name', (field, file) => {
    expect(() => bootMultiboot(file, machine)).toThrow(expect.objectContaining({ code: 'ERR_KVM_FORMAT', field }));
  });

  it('has its header in the first 8192 bytes, with the right checksum', () => {
    expect(findMultibootHeader(Buffer.concat([Buffer.alloc(8192 - 12), multibootHeader(0)]))).toEqual({
      offset: 8180,
      flags: 0,
    });
    expect(findMultibootHeader(Buffer.concat([Buffer.alloc(8192), multibootHeader(0)]))).toBeUndefined();
    const wrong = multibootHeader(0);
    wrong.writeUInt32LE(1, 8);
    expect(findMultibootHeader(wrong)).toBeUndefined();
    expect(() => bootMultiboot(wrong, machine)).toThrow(expect.objectContaining({ field: 'magic' }));
  });
});

describe('a flat image', () => {
  it('starts in the mode that is asked for', () => {
    expect(bootFlat(code, machine).vcpu).toMatchObject({ regs: { rip: 0x10_0000n }, sregs: { cs: { l: true } } });
    expect(bootFlat(code, machine, { mode: 'protected', entry: 0x10_0004n }).vcpu).toMatchObject({
      regs: { rip: 0x10_0004n },
      sregs: { cs: { db: true } },
    });
    expect(bootFlat(code, machine, { mode: 'real' }).vcpu).toMatchObject({
      regs: { rip: 0n },
      sregs: { cs: { base: 0x1_0000n, selector: 0x1000 } },
    });
  });

  it('must lie in memory, below 1 MiB in real mode', () => {
    expect(() => bootFlat(code, machine, { load: 16n << 20n })).toThrow(/does not lie in guest memory/);
    expect(() => bootFlat(code, machine, { mode: 'real', load: 0x10_0000n })).toThrow(/below 1 MiB/);
  });
});
