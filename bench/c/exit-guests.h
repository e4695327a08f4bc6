// The guests of the exit benchmarks. exit-guests in ../harness has the same bytes.
#pragma once

/** l: in al, 0x10; out 0x10, al; jmp l */
#define PIO_GUEST "\xe4\x10\xe6\x10\xeb\xfa"
/** mov ax, 0x2000; mov es, ax; l: mov al, es:[0]; mov es:[0], al; jmp l */
#define MMIO_GUEST "\xb8\x00\x20\x8e\xc0\x26\xa0\x00\x00\x26\xa2\x00\x00\xeb\xf6"
/** The two loops in one: in, out, MMIO read, MMIO write. */
#define BOTH_GUEST "\xb8\x00\x20\x8e\xc0\xe4\x10\xe6\x10\x26\xa0\x00\x00\x26\xa2\x00\x00\xeb\xf2"
/** l: in ax, 0x10; mov cx, ax; loop $; jmp l */
#define PACED_GUEST "\xe5\x10\x89\xc1\xe2\xfe\xeb\xf8"
