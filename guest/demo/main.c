/*
 * The guest of the demo. It asks the host for commands through ports, one after the other, and does with guest memory
 * what they say; the host decides, the guest reports.
 *
 * Its code, page tables and stack lie in shared memory on purpose. Where KVM has to look at an instruction to step over
 * it (AMD without the next-RIP feature, or an emulating backend), it reads the shared side: private code would be
 * misread. Only the pages that the commands name are made private.
 */
#include "io.h"

/* The protocol; lib/demo/protocol.ts is the other half. */
enum {
  PORT_COMMAND = 0x500,  /* in: the next command */
  PORT_ARGUMENT = 0x504, /* in: its next argument */
  PORT_RESULT = 0x508,   /* out: the result, low half, then high half */
};

enum {
  COMMAND_HALT = 0,
  COMMAND_HELLO = 1,
  COMMAND_SECRET = 2,
  COMMAND_HASH = 3,
  COMMAND_FILL = 4,
  COMMAND_PEEK = 5,
  COMMAND_OR = 6,
  COMMAND_MAP_GPA = 7,
  COMMAND_SPIN = 8,
  COMMAND_NOTHING = 9, /* takes no arguments and gives no answer */
};

#define PAGE_WORDS 512UL
#define HELLO_MAGIC 0x4e4bUL /* "NK" */
#define KVM_HC_MAP_GPA_RANGE 12
#define MSR_EFER 0xc0000080
#define EFER_LMA (1UL << 10)

static u64 argument(void) { return port_in(PORT_ARGUMENT); }

static void answer(u64 value) {
  port_out(PORT_RESULT, (u32)value);
  port_out(PORT_RESULT, (u32)(value >> 32));
}

/* FNV-1a over 64-bit words: the host computes the same to know whether what it read is the page. */
static u64 hash_page(const volatile u64 *page) {
  u64 hash = 0xcbf29ce484222325UL;
  for (u64 i = 0; i < PAGE_WORDS; i++) {
    hash = (hash ^ page[i]) * 0x100000001b3UL;
  }
  return hash;
}

/*
 * A page of letters that nobody but the guest knows, made here from the time stamp counter. It goes straight to the
 * page; what leaves the guest is the hash.
 */
static u64 make_secret(volatile u64 *page) {
  static const char letters[32] = "abcdefghijklmnopqrstuvwxyz234567";
  u64 state = read_tsc() | 1;
  for (u64 i = 0; i < PAGE_WORDS; i++) {
    if ((i & 63) == 0) state ^= read_tsc();
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    u64 word = 0, bits = state;
    for (int n = 0; n < 8; n++, bits >>= 5) word = word << 8 | (u8)letters[bits & 31];
    page[i] = word;
  }
  page[0] = 0x203a746572636553UL; /* "Secret: " */
  return hash_page(page);
}

static u64 fill(u64 gpa, u64 pages, u64 value) {
  for (u64 i = 0; i < pages; i++) *(volatile u64 *)(gpa + i * 4096) = value + i;
  return pages;
}

/* Zero if and only if every byte of the pages is. */
static u64 or_of(u64 gpa, u64 pages) {
  const volatile u64 *word = (const volatile u64 *)gpa;
  u64 all = 0;
  for (u64 i = 0; i < pages * PAGE_WORDS; i++) all |= word[i];
  return all;
}

static u64 hello(int use_vmmcall) {
  u64 long_mode = (read_msr(MSR_EFER) & EFER_LMA) != 0;
  return HELLO_MAGIC << 48 | (u64)use_vmmcall << 47 | long_mode << 46 | (read_cr3() & 0xffffffff);
}

/* Keeps the guest busy without an exit, so that the host can show that its event loop is free meanwhile. */
static u64 spin(u64 cycles) {
  u64 start = read_tsc(), turns = 0;
  while (read_tsc() - start < cycles) turns++;
  return turns;
}

void guest_main(void) {
  int use_vmmcall = vendor_takes_vmmcall();
  for (;;) {
    u32 command = port_in(PORT_COMMAND);
    if (command == COMMAND_HALT) return;
    if (command == COMMAND_NOTHING) continue;
    u64 a = argument(), b = argument(), c = argument();
    switch (command) {
    case COMMAND_HELLO: answer(hello(use_vmmcall)); break;
    case COMMAND_SECRET: answer(make_secret((volatile u64 *)a)); break;
    case COMMAND_HASH: answer(hash_page((const volatile u64 *)a)); break;
    case COMMAND_FILL: answer(fill(a, b, c)); break;
    case COMMAND_PEEK: answer(*(const volatile u64 *)a); break;
    case COMMAND_OR: answer(or_of(a, b)); break;
    case COMMAND_MAP_GPA: answer(hypercall(use_vmmcall, KVM_HC_MAP_GPA_RANGE, a, b, c)); break;
    case COMMAND_SPIN: answer(spin(a)); break;
    default: answer(~0UL);
    }
  }
}
