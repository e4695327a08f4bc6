/** Kernel images are written by strangers: whatever their bytes, the answer is an image or an error with a field. */
import { describe, expect, it } from 'vitest';
import { bootKernel, e820, examineKernel, ramRanges } from '../../lib/boot/index.ts';
import { KvmError } from '../../lib/errors.ts';
import { bzImageFile, elfFile, multibootHeader, pvhNote } from './boot-images.ts';

const ram = ramRanges(32 * 1024 * 1024);
const machine = { ram, memoryMap: e820(ram), cmdline: 'quiet', initrd: new Uint8Array(100) };
const code = new Uint8Array(600).fill(0x90);

const files: Record<string, Buffer> = {
  bzImage: bzImageFile(),
  'ELF, 64 bits': elfFile(64, 0x100_0000n, [{ gpa: 0x100_0000, bytes: code }, pvhNote(0x100_0000)]),
  'ELF, 32 bits, multiboot': elfFile(32, 0x10_000cn, [
    { gpa: 0x10_0000, bytes: Buffer.concat([multibootHeader(0), code]) },
  ]),
  'multiboot with addresses': Buffer.concat([
    multibootHeader(1 << 16, [0x10_0000, 0x10_0000, 0, 0x11_0000, 0x10_0020]),
    code,
  ]),
};

/** A small generator with a seed, so that a failure can be had again. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), state | 1) + 0x6d2b_79f5) | 0;
    return (state >>> 0) / 2 ** 32;
  };
}

function attempt(file: Uint8Array, what: string): void {
  for (const protocol of [undefined, 'pvh', 'linux', 'multiboot'] as const) {
    try {
      bootKernel(file, { ...machine, protocol });
    } catch (error) {
      if (!(error instanceof KvmError) && !(error instanceof RangeError))
        throw new Error(`${what}: ${String(error)}`, { cause: error });
      expect(error.message, what).not.toMatch(/Offset is outside|Invalid typed array|undefined/);
    }
  }
}

describe.each(Object.entries(files))('%s', (name, file) => {
  it('is what it is taken for', () => {
    expect(examineKernel(file).format).toBe(
      name.startsWith('ELF, 64') ? 'ELF' : name === 'bzImage' ? name : 'multiboot',
    );
    expect(bootKernel(file, machine).vcpu).toBeDefined();
  });

  it('cut at any length', () => {
    for (let length = 0; length < file.byteLength; length += length < 1200 ? 1 : 97)
      attempt(file.subarray(0, length), `${length} bytes of ${name}`);
  });

  it('with each byte of its headers at its extremes', () => {
    for (let at = 0; at < Math.min(file.byteLength, 0x300); at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        const changed = Buffer.from(file);
        changed[at] = value;
        attempt(changed, `${name} with 0x${value.toString(16)} at ${at}`);
      }
    }
  });

  it('with random fields', () => {
    const next = random(20);
    const words = [0, 1, 0xffff_ffff, 0x7fff_ffff, 0x8000_0000, 0x1000, 0xffff_f000];
    for (let round = 0; round < 3000; round++) {
      const changed = Buffer.from(file);
      for (let count = Math.ceil(next() * 4); count > 0; count--) {
        const at = Math.floor(next() * (Math.min(file.byteLength, 0x300) - 4));
        changed.writeUInt32LE(
          next() < 0.5 ? words[Math.floor(next() * words.length)]! : Math.floor(next() * 2 ** 32),
          at,
        );
      }
      attempt(changed, `${name}, round ${round}`);
    }
  });
});
