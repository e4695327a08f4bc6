/** Tables that a kernel reads, checked by their rules and by ACPICA's own disassembler where there is one. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { acpiTables, e820, MP_TABLE_MAX_CPUS, mpTable, ramRanges, virtioMmioSlot } from '../../lib/boot/index.ts';

const GiB = 1024 ** 3;
const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => total + byte, 0) & 0xff;

describe('the memory map', () => {
  it('has RAM around the BIOS area, and from 4 GiB on what does not fit below 3 GiB', () => {
    expect(ramRanges(8 * GiB)).toEqual([
      { gpa: 0n, size: 3 * GiB },
      { gpa: 0x1_0000_0000n, size: 5 * GiB },
    ]);
    expect(e820(ramRanges(8 * GiB))).toEqual([
      { gpa: 0n, size: 0x9_fc00n, type: 1 },
      { gpa: 0x9_fc00n, size: 0x400n, type: 2 },
      { gpa: 0xe_0000n, size: 0x2_0000n, type: 2 },
      { gpa: 0x10_0000n, size: BigInt(3 * GiB - 0x10_0000), type: 1 },
      { gpa: 0x1_0000_0000n, size: BigInt(5 * GiB), type: 1 },
    ]);
    expect(() => ramRanges(4097)).toThrow(RangeError);
  });
});

describe('ACPI', () => {
  const slots = Array.from({ length: 16 }, (_, index) => virtioMmioSlot(index));
  const { rsdp, parts } = acpiTables({ cpus: 300, serialPorts: 2, virtioMmio: slots, pvpanic: true });
  const bytesOf = (name: string): Uint8Array => parts.find((part) => part.name === name)!.bytes;

  it('has tables with right checksums that do not overlap and end below 1 MiB', () => {
    for (const { bytes } of parts) expect(sum(bytes)).toBe(0);
    const ends = [...parts].sort((a, b) => Number(a.gpa - b.gpa));
    ends.forEach(({ gpa, bytes }, index) =>
      expect(gpa + BigInt(bytes.byteLength)).toBeLessThanOrEqual(ends[index + 1]?.gpa ?? 0x10_0000n),
    );
    expect(rsdp).toBe(0xe_0000n);
    expect(Buffer.from(bytesOf('RSDP').subarray(0, 8)).toString()).toBe('RSD PTR ');
    expect(sum(bytesOf('RSDP').subarray(0, 20))).toBe(0);
  });

  it('gives every virtio device a window and an interrupt of its own', () => {
    expect(new Set(slots.map(({ gsi }) => gsi)).size).toBe(16);
    expect(new Set(slots.map(({ gpa }) => gpa)).size).toBe(16);
    expect(slots.map(({ gsi }) => gsi)).not.toContain(9);
    expect(() => virtioMmioSlot(16)).toThrow(RangeError);
  });

  const iasl = ['/usr/bin/iasl', '/bin/iasl'].find((path) => existsSync(path));
  const scratch = mkdtempSync(join(tmpdir(), 'node-kvm-acpi-'));
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  describe.skipIf(iasl === undefined)('in the eyes of iasl (needs the Debian package acpica-tools)', () => {
    const disassemble = (name: string): string => {
      writeFileSync(join(scratch, `${name}.dat`), bytesOf(name));
      execFileSync(iasl!, ['-d', '-p', join(scratch, name), join(scratch, `${name}.dat`)], { stdio: 'pipe' });
      return readFileSync(join(scratch, `${name}.dsl`), 'latin1');
    };

    it('the DSDT names the devices, and compiles again to the same bytes', () => {
      const source = disassemble('DSDT');
      expect(source.match(/"LNRO0005"/g)).toHaveLength(16);
      expect(source.match(/EisaId \("PNP0501"\)/g)).toHaveLength(2);
      expect(source).toMatch(/Name \(\\?_S5, Package \(0x04\)/);
      expect(source).toMatch(/Memory32Fixed \(ReadWrite,\s+0xD0000000,\s+\/\/ Address Base\s+0x00001000/);
      expect(source).toMatch(/Interrupt \(ResourceConsumer, Edge, ActiveHigh, Exclusive/);
      expect(source).toMatch(/IO \(Decode16,\s+0x03F8,/);
      execFileSync(iasl!, ['-p', join(scratch, 'again'), join(scratch, 'DSDT.dsl')], { stdio: 'pipe' });
      // Header and compiler stamp apart.
      expect(readFileSync(join(scratch, 'again.aml')).subarray(36)).toEqual(Buffer.from(bytesOf('DSDT').subarray(36)));
    });

    it('the FADT has the power registers', () => {
      const source = disassemble('FADT');
      expect(source).toMatch(/SCI Interrupt : 0009/);
      expect(source).toMatch(/PM1A Control Block Address : 00000604/);
      expect(source).toMatch(/PM Timer Block Address : 00000608/);
      expect(source).toMatch(/Reset Register Supported \(V2\) : 1/);
      expect(source).toMatch(/Value to cause reset : 06/);
      expect(source).toMatch(/Hardware Reduced \(V5\) : 0/);
    });

    it('the MADT has 255 processors by APIC id and the rest by x2APIC id', () => {
      const source = disassemble('MADT');
      expect(source.match(/Subtable Type : 00 \[Processor Local APIC\]/g)).toHaveLength(255);
      expect(source.match(/Subtable Type : 09 \[Processor Local x2APIC\]/g)).toHaveLength(45);
      expect(source).toMatch(/\[I\/O APIC\]/);
    });
  });
});

describe('the MP table', () => {
  it('has right checksums and fits into its kibibyte', () => {
    for (const cpus of [1, 4, MP_TABLE_MAX_CPUS]) {
      const bytes = mpTable(cpus);
      expect(bytes.byteLength).toBeLessThanOrEqual(1024);
      expect(Buffer.from(bytes.subarray(0, 4)).toString()).toBe('_MP_');
      expect(sum(bytes.subarray(0, 16))).toBe(0);
      expect(sum(bytes.subarray(16))).toBe(0);
      const view = new DataView(bytes.buffer);
      expect(view.getUint16(16 + 4, true)).toBe(bytes.byteLength - 16);
      expect(view.getUint16(16 + 34, true)).toBe(cpus + 1 + 1 + 15 + 2);
    }
    expect(() => mpTable(MP_TABLE_MAX_CPUS + 1)).toThrow(/ACPI takes more/);
  });
});
