/** Where everything lies in the guest of the demo, and the words that host and guest exchange (guest/demo/main.c). */

export const PAGE = 4096;

/** The main slot: shared memory and guest_memfd together. Page tables, program and stack, then the pages to play with. */
export const MAIN_SLOT = { gpa: 0n, size: 1 << 20 } as const;
/** Memory without a guest_memfd. */
export const PLAIN_SLOT = { gpa: 0x20_0000n, size: 32 << 10 } as const;
/** The same, until the guest's access has a guest_memfd put behind it. */
export const LATE_SLOT = { gpa: 0x20_8000n, size: 32 << 10 } as const;

export const PAGE_TABLES_GPA = 0x1000n;
export const PROGRAM_GPA = 0x1_0000n;
/** The program ends below (its linker script asserts it). */
export const PROGRAM_END = 0x2_0000n;

export interface Area {
  readonly gpa: bigint;
  readonly pages: number;
}

export const SECRET: Area = { gpa: 0x4_0000n, pages: 1 };
export const BY_HYPERCALL: Area = { gpa: 0x5_0000n, pages: 8 };
export const TO_PUNCH: Area = { gpa: 0x6_0000n, pages: 16 };
export const PREFAULT_PRIVATE: Area = { gpa: 0x8_0000n, pages: 64 };
export const PREFAULT_SHARED: Area = { gpa: 0xc_0000n, pages: 32 };
/** In the plain slot. */
export const BY_ACCESS_TO_SHARED: Area = { gpa: 0x20_0000n, pages: 1 };
/** The late slot. */
export const BY_ACCESS_TO_PRIVATE: Area = { gpa: 0x20_8000n, pages: 8 };

export const bytesOf = ({ pages }: Area): number => pages * PAGE;

export const PORT_COMMAND = 0x500;
export const PORT_ARGUMENT = 0x504;
export const PORT_RESULT = 0x508;

export const COMMANDS = {
  halt: 0,
  hello: 1,
  secret: 2,
  hash: 3,
  fill: 4,
  peek: 5,
  or: 6,
  mapGpa: 7,
  spin: 8,
  nothing: 9,
} as const;

export type CommandName = keyof typeof COMMANDS;

export const HELLO_MAGIC = 0x4e4bn;
/** How the guest's secret begins, for the eye; the comparison is by hash. */
export const SECRET_MARK = 'Secret: ';

const FNV_BASIS = 0xcbf29ce484222325n;
const FNV_PRIME = 0x100000001b3n;

/** The guest's hash of a page: FNV-1a over 64-bit little-endian words. */
export function hashPage(page: Uint8Array): bigint {
  const words = new DataView(page.buffer, page.byteOffset, PAGE);
  let hash = FNV_BASIS;
  for (let at = 0; at < PAGE; at += 8) hash = BigInt.asUintN(64, (hash ^ words.getBigUint64(at, true)) * FNV_PRIME);
  return hash;
}
