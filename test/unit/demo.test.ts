import { describe, expect, it } from 'vitest';
import pico from 'picocolors';
import { identityPageTables, longMode, PAGE_TABLES_BYTES } from '../../lib/demo/boot.ts';
import { drawMemory, mergeRanges, type MemoryRange } from '../../lib/demo/picture.ts';
import * as plan from '../../lib/demo/plan.ts';

const plain = pico.createColors(false);
const colored = pico.createColors(true);
const range = (gpa: bigint, pages: number, state: MemoryRange['state'], populated = true): MemoryRange => ({
  gpa,
  size: pages * 4096,
  state,
  populated,
});

describe('the picture of guest memory', () => {
  const ranges = [
    range(0n, 2, 'shared'),
    range(0x2000n, 2, 'private'),
    range(0x4000n, 1, 'private', false),
    range(0x5000n, 3, 'shared', false),
  ];

  it('draws a character per page', () => {
    expect(drawMemory(ranges, { colors: plain, width: 16 }).split('\n')[1]).toBe('0x00000000 |==##o---|');
  });

  it('says what each character means, and only those that occur', () => {
    const text = drawMemory(ranges.slice(0, 2), { colors: plain });
    expect(text).toContain('# private, populated');
    expect(text).toContain('= shared, populated');
    expect(text).not.toContain('hole');
    expect(text).toContain('one character: 4 KiB');
  });

  it('marks blocks of different pages', () => {
    expect(drawMemory(ranges, { colors: plain, blockSize: 8192 }).split('\n')[1]).toBe('0x00000000 |=#%-|');
  });

  it('starts each line with its address and leaves empty lines out', () => {
    const text = drawMemory([range(0n, 1, 'shared'), range(0x20_0000n, 1, 'private')], { colors: plain });
    expect(text.split('\n').slice(1, 4)).toEqual([
      `0x00000000 |=${' '.repeat(63)}|`,
      `${' '.repeat(10)}  (no memory)`,
      '0x00200000 |#|',
    ]);
  });

  it('has the same characters in colour', () => {
    const text = drawMemory(ranges, { colors: colored });
    expect(text).toContain('\u001b[35m##');
    // eslint-disable-next-line no-control-regex
    expect(text.replace(/\u001b\[\d+m/g, '')).toBe(drawMemory(ranges, { colors: plain }));
  });

  it('joins neighbours that are alike', () => {
    expect(
      mergeRanges([
        range(0n, 1, 'shared'),
        range(0x1000n, 1, 'shared'),
        range(0x2000n, 1, 'private'),
        range(0x4000n, 1, 'private'),
      ]),
    ).toEqual([range(0n, 2, 'shared'), range(0x2000n, 1, 'private'), range(0x4000n, 1, 'private')]);
  });
});

describe('the plan of the demo', () => {
  const areas = [
    { gpa: plan.PAGE_TABLES_GPA, pages: PAGE_TABLES_BYTES / plan.PAGE },
    { gpa: plan.PROGRAM_GPA, pages: Number(plan.PROGRAM_END - plan.PROGRAM_GPA) / plan.PAGE },
    plan.SECRET,
    plan.BY_HYPERCALL,
    plan.TO_PUNCH,
    plan.PREFAULT_PRIVATE,
    plan.PREFAULT_SHARED,
    plan.BY_ACCESS_TO_SHARED,
    plan.BY_ACCESS_TO_PRIVATE,
  ].sort((a, b) => Number(a.gpa - b.gpa));

  it('keeps areas apart', () => {
    for (const [index, area] of areas.entries()) {
      const next = areas[index + 1];
      if (next !== undefined) expect(area.gpa + BigInt(plan.bytesOf(area))).toBeLessThanOrEqual(next.gpa);
    }
  });

  it('keeps each inside one slot', () => {
    for (const { gpa, pages } of areas) {
      const inside = [plan.MAIN_SLOT, plan.PLAIN_SLOT, plan.LATE_SLOT].filter(
        (slot) => gpa >= slot.gpa && gpa + BigInt(pages * plan.PAGE) <= slot.gpa + BigInt(slot.size),
      );
      expect(inside).toHaveLength(1);
    }
  });

  it('hashes as the guest does', () => {
    // FNV-1a over one zero word is the basis times the prime; over 512 of them, 512 times the prime.
    let hash = 0xcbf29ce484222325n;
    for (let word = 0; word < 512; word++) hash = (hash * 0x100000001b3n) & 0xffff_ffff_ffff_ffffn;
    expect(plan.hashPage(new Uint8Array(4096))).toBe(hash);
    expect(plan.hashPage(Uint8Array.of(1, ...new Uint8Array(4095)))).not.toBe(hash);
  });
});

describe('the state in which the guest starts', () => {
  it('maps the first GiB to itself', () => {
    const tables = new DataView(identityPageTables(0x1000n).buffer);
    expect(tables.getBigUint64(0, true)).toBe(0x2003n);
    expect(tables.getBigUint64(0x1000, true)).toBe(0x3003n);
    expect(tables.getBigUint64(0x2000, true)).toBe(0x83n);
    expect(tables.getBigUint64(0x2000 + 8 * 511, true)).toBe(0x3fe0_0083n);
  });

  it('is 64-bit: paging, PAE, long mode active, a long code segment', () => {
    const { cr0, cr3, cr4, efer, cs } = longMode(0x1000n);
    expect([cr0 >> 31n, cr0 & 1n, cr4 & 0x20n, efer & 0x500n, cr3]).toEqual([1n, 1n, 0x20n, 0x500n, 0x1000n]);
    expect([cs.l, cs.db, cs.type, cs.s]).toEqual([true, false, 11, true]);
  });
});
