/** The state in which the guest starts: 64-bit, paging on. Pure: bytes and registers out. */
import { identityPageTables as bootPageTables } from '../boot/page-tables.ts';

/** Three pages: PML4, page directory pointers, page directory. */
export const PAGE_TABLES_BYTES = 3 * 4096;

const CR0 = (1n << 31n) | (1n << 16n) | (1n << 5n) | (1n << 4n) | 1n; // PG, WP, NE, ET, PE
const CR4_PAE = 1n << 5n;
const EFER = (1n << 10n) | (1n << 8n); // LMA, LME

/** The first GiB, mapped to itself with 2 MiB pages, for tables that lie at `gpa`. */
export function identityPageTables(gpa: bigint): Uint8Array {
  return bootPageTables(gpa, 1);
}

export interface BootSegment {
  base: bigint;
  limit: number;
  selector: number;
  type: number;
  present: boolean;
  dpl: number;
  db: boolean;
  s: boolean;
  l: boolean;
  g: boolean;
  avl: boolean;
  unusable: boolean;
}

const flat = (selector: number, type: number, l: boolean): BootSegment => ({
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
});

/**
 * The registers that make a reset vCPU a 64-bit one: to be merged over what KVM_GET_SREGS gave. The segments need no
 * descriptor table as long as nobody loads them anew.
 */
export function longMode(pageTablesGpa: bigint): {
  cr0: bigint;
  cr3: bigint;
  cr4: bigint;
  efer: bigint;
  cs: BootSegment;
  ds: BootSegment;
  es: BootSegment;
  fs: BootSegment;
  gs: BootSegment;
  ss: BootSegment;
} {
  const data = flat(16, 3, false);
  return {
    cr0: CR0,
    cr3: pageTablesGpa,
    cr4: CR4_PAE,
    efer: EFER,
    cs: flat(8, 11, true),
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
  };
}
