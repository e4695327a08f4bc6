/** The states in which boot protocols hand over the machine: register values, and the descriptor table behind them. */
import type { Segment, Sregs } from '../abi/index.ts';
import type { LaunchImage } from '../memory/launch-image.ts';
import { identityPageTables } from './page-tables.ts';
import { LOW } from './platform.ts';

/** Selectors that Linux asks for by number (*The Linux/x86 Boot Protocol*, 64-bit boot protocol). */
const BOOT_CS = 0x10;
const BOOT_DS = 0x18;
const BOOT_TSS = 0x20;

const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;

const CODE = 0xb;
const DATA = 0x3;
const TSS_BUSY = 0xb;

type SystemRegisters = Partial<Sregs>;

/** 32-bit protected mode, flat segments, no paging: PVH and multiboot. Adds the descriptor table to the image. */
export function protectedMode(image: LaunchImage): SystemRegisters {
  addDescriptorTable(image, flat(BOOT_CS, CODE, '32'));
  return { ...segments('32'), cr0: CR0_PE | CR0_ET, cr4: 0n, efer: 0n };
}

/** 64-bit mode with the first 4 GiB mapped to themselves: Linux. Adds the descriptor and page tables to the image. */
export function longMode(image: LaunchImage): SystemRegisters {
  addDescriptorTable(image, flat(BOOT_CS, CODE, '64'));
  image.add({ name: 'page tables', gpa: LOW.pageTables, bytes: identityPageTables(LOW.pageTables, 4) });
  return {
    ...segments('64'),
    cr0: CR0_PE | CR0_ET | CR0_PG,
    cr3: LOW.pageTables,
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
  };
}

function segments(bits: '32' | '64'): SystemRegisters {
  const data = flat(BOOT_DS, DATA, '32');
  return {
    cs: flat(BOOT_CS, CODE, bits),
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    tr: taskState(),
    gdt: { base: LOW.gdt, limit: TABLE_ENTRIES * 8 - 1 },
    idt: { base: LOW.idt, limit: 7 },
  };
}

// null, null, code, data, and the task state of a 32-bit guest.
const TABLE_ENTRIES = 5;

function addDescriptorTable(image: LaunchImage, code: Segment): void {
  const bytes = new Uint8Array(Number(LOW.idt - LOW.gdt) + 8);
  const view = new DataView(bytes.buffer);
  for (const segment of [code, flat(BOOT_DS, DATA, '32'), taskState()]) {
    view.setBigUint64(segment.selector, descriptor(segment), true);
  }
  image.add({ name: 'descriptor tables', gpa: LOW.gdt, bytes });
}

function flat(selector: number, type: number, bits: '32' | '64'): Segment {
  const l = bits === '64';
  return {
    base: 0n,
    limit: 0xffff_ffff,
    selector,
    type,
    present: true,
    dpl: 0,
    db: !l,
    s: true,
    l,
    g: true,
    avl: false,
    unusable: false,
  };
}

function taskState(): Segment {
  return {
    base: 0n,
    limit: 0x67,
    selector: BOOT_TSS,
    type: TSS_BUSY,
    present: true,
    dpl: 0,
    db: false,
    s: false,
    l: false,
    g: false,
    avl: false,
    unusable: false,
  };
}

/** A segment descriptor (Intel SDM vol. 3, 3.4.5). */
export function descriptor({ base, limit, type, s, dpl, present, avl, l, db, g }: Segment): bigint {
  const pages = BigInt(g ? limit >>> 12 : limit);
  const bit = (flag: boolean, at: bigint): bigint => (flag ? 1n << at : 0n);
  return (
    (pages & 0xffffn) |
    ((base & 0xff_ffffn) << 16n) |
    (BigInt(type) << 40n) |
    bit(s, 44n) |
    (BigInt(dpl) << 45n) |
    bit(present, 47n) |
    (((pages >> 16n) & 0xfn) << 48n) |
    bit(avl, 52n) |
    bit(l, 53n) |
    bit(db, 54n) |
    bit(g, 55n) |
    (((base >> 24n) & 0xffn) << 56n)
  );
}
