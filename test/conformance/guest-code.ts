/**
 * The guest of the conformance tests, as bytes: 64-bit code that carries out orders, with its page tables. All of it
 * lies in shared memory, because KVM reads an instruction through the shared side where it has to step over it.
 */

/** Below this is what {@link writeGuest} writes and where the mailboxes are: slot 0 of every VM here. */
export const LOW_SIZE = 0x2_0000;
export const CODE = 0x1000n;
export const PAGE_TABLES = 0x2000n;
const MAILBOXES = 0x1_0000n;
/** As many vCPUs have a mailbox. */
export const MAX_VCPUS = 16;

/**
 * Each vCPU's own page: what it found at 0 (address, word), the answer to its hypercall at 16, CR2 and RSP after an
 * exception at 24, orders from 64 on, and its stack at the end.
 */
export const mailboxOf = (vcpu: number): bigint => MAILBOXES + BigInt(vcpu) * 4096n;
export const ORDERS_AT = 64;
/** Operation, guest address, bytes, value. */
export const ORDER_BYTES = 32;
const STACK_BYTES = 256;
export const MAX_ORDERS = (4096 - STACK_BYTES - ORDERS_AT) / ORDER_BYTES - 1;

export const DONE_PORT = 0x10;
export const DIFFERS_PORT = 0x11;
export const REFUSED_PORT = 0x12;
export const EXCEPTION_PORT = 0x13;

/** What the guest can do. `done` ends a list of orders; `watch` reads one word for ever. */
export const OPERATIONS = { done: 0n, fill: 1n, compare: 2n, convert: 3n, touch: 4n, watch: 5n } as const;
export type Operation = keyof typeof OPERATIONS;

/** Where 2 MiB pages of any guest physical address can be seen: see {@link writeGuest}. */
export const WINDOW = 0x80_0000_0000n;

// r8 is the mailbox. Made with an assembler from the text on the left.
// prettier-ignore
const CODE_BYTES = [
  // begin:
  0x4d, 0x8d, 0x48, 0x40, //                   lea r9, [r8 + 64]
  // next:
  0x49, 0x8b, 0x29, //                         mov rbp, [r9]
  0x49, 0x8b, 0x79, 0x08, //                   mov rdi, [r9 + 8]
  0x49, 0x8b, 0x49, 0x10, //                   mov rcx, [r9 + 16]
  0x49, 0x8b, 0x41, 0x18, //                   mov rax, [r9 + 24]
  0x49, 0x83, 0xc1, 0x20, //                   add r9, 32
  0x83, 0xfd, 0x01, 0x74, 0x18, //             cmp ebp, 1; je fill
  0x83, 0xfd, 0x02, 0x74, 0x1c, //             cmp ebp, 2; je compare
  0x83, 0xfd, 0x03, 0x74, 0x32, //             cmp ebp, 3; je convert
  0x83, 0xfd, 0x04, 0x74, 0x4c, //             cmp ebp, 4; je touch
  0x83, 0xfd, 0x05, 0x74, 0x5f, //             cmp ebp, 5; je watch
  0xe6, DONE_PORT, //                          out DONE_PORT, al
  0xeb, 0xcc, //                               jmp begin
  // fill:
  0x48, 0xc1, 0xe9, 0x03, //                   shr rcx, 3
  0xf3, 0x48, 0xab, //                         rep stosq
  0xeb, 0xc7, //                               jmp next
  // compare:
  0x48, 0xc1, 0xe9, 0x03, //                   shr rcx, 3
  0xf3, 0x48, 0xaf, //                         repe scasq
  0x74, 0xbe, //                               je next
  0x48, 0x83, 0xef, 0x08, //                   sub rdi, 8
  0x48, 0x8b, 0x17, //                         mov rdx, [rdi]
  0x49, 0x89, 0x38, //                         mov [r8], rdi
  0x49, 0x89, 0x50, 0x08, //                   mov [r8 + 8], rdx
  0xe6, DIFFERS_PORT, //                       out DIFFERS_PORT, al
  0xeb, 0xac, //                               jmp next
  // convert:
  0x48, 0x89, 0xfb, //                         mov rbx, rdi
  0x48, 0xc1, 0xe9, 0x0c, //                   shr rcx, 12
  0x48, 0x89, 0xc2, //                         mov rdx, rax
  0xb8, 0x0c, 0x00, 0x00, 0x00, //             mov eax, KVM_HC_MAP_GPA_RANGE
  0x0f, 0x01, 0xd9, //                         vmmcall; KVM patches it where the processor has vmcall
  0x49, 0x89, 0x40, 0x10, //                   mov [r8 + 16], rax
  0x48, 0x85, 0xc0, //                         test rax, rax
  0x74, 0x91, //                               je next
  0xe6, REFUSED_PORT, //                       out REFUSED_PORT, al
  0xeb, 0x8d, //                               jmp next
  // touch:
  0x48, 0x8b, 0x07, //                         mov rax, [rdi]
  0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 4096
  0x48, 0x81, 0xe9, 0x00, 0x10, 0x00, 0x00, // sub rcx, 4096
  0x75, 0xed, //                               jne touch
  0xe9, 0x75, 0xff, 0xff, 0xff, //             jmp next
  // watch:
  0x48, 0x8b, 0x07, //                         mov rax, [rdi]
  0xeb, 0xfb, //                               jmp watch
];

// Every exception comes here, with its number on the stack above what the processor put there.
// prettier-ignore
const EXCEPTION_BYTES = [
  0x0f, 0x20, 0xd0, //                         mov rax, cr2
  0x49, 0x89, 0x40, 0x18, //                   mov [r8 + 24], rax
  0x49, 0x89, 0x60, 0x20, //                   mov [r8 + 32], rsp
  0xe6, EXCEPTION_PORT, //                     out EXCEPTION_PORT, al
  0xf4, //                                     hlt
];

const VECTORS = 32;
const EXCEPTION = CODE + 0x200n;
/** Eight bytes for each vector: push its number, jump to the code above. */
const ENTRIES = CODE + 0x300n;
const IDT = 0x9000n;
const GDT = 0x9800n;
export const GUEST_TABLES = {
  idt: { base: IDT, limit: VECTORS * 16 - 1 },
  gdt: { base: GDT, limit: 3 * 8 - 1 },
} as const;

const PRESENT = 0b11n; // and writable
const LARGE_PAGE = 0xe3n; // 2 MiB, present, writable; accessed and dirty, so that nobody has to write it
const TWO_MIB = 1n << 21n;
const GIB = 1n << 30n;

/**
 * Code and page tables into the first {@link LOW_SIZE} bytes of guest memory. The first GiB and those at 3 and 4 GiB
 * are mapped to themselves; `window` (a multiple of 2 MiB) is seen at {@link WINDOW} as well, 1 GiB of it.
 */
export function writeGuest(low: Uint8Array, window = 0n): void {
  low.set(CODE_BYTES, Number(CODE));
  low.set(EXCEPTION_BYTES, Number(EXCEPTION));
  const words = new DataView(low.buffer, low.byteOffset, low.byteLength);
  const put = (table: bigint, index: bigint, entry: bigint): void =>
    words.setBigUint64(Number(table + index * 8n), entry, true);
  const directory = (table: bigint, from: bigint): void => {
    for (let index = 0n; index < 512n; index++) put(table, index, (from + index * TWO_MIB) | LARGE_PAGE);
  };
  const [identity, windowPointers] = [PAGE_TABLES + 0x1000n, PAGE_TABLES + 0x2000n];
  put(PAGE_TABLES, 0n, identity | PRESENT);
  put(PAGE_TABLES, 1n, windowPointers | PRESENT);
  for (const [at, gib] of [0n, 3n, 4n].entries()) {
    const table = PAGE_TABLES + BigInt(0x3000 + at * 0x1000);
    put(identity, gib, table | PRESENT);
    directory(table, gib * GIB);
  }
  put(GDT, 1n, 0x00af_9b00_0000_ffffn); // 64-bit code
  put(GDT, 2n, 0x00cf_9300_0000_ffffn); // data
  for (let vector = 0n; vector < VECTORS; vector++) {
    const entry = ENTRIES + vector * 8n;
    const jump = BigInt.asUintN(32, EXCEPTION - (entry + 7n));
    put(entry, 0n, 0x6an | (vector << 8n) | (0xe9n << 16n) | (jump << 24n)); // push vector; jmp EXCEPTION
    put(IDT, vector * 2n, entry | (8n << 16n) | (0x8e00n << 32n)); // a 64-bit interrupt gate, on the same stack
  }
  put(windowPointers, 0n, (PAGE_TABLES + 0x6000n) | PRESENT);
  directory(PAGE_TABLES + 0x6000n, window);
}
