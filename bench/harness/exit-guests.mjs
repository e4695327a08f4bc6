// The guests of the exit benchmarks, and what is done with their exits. c/exit-guests.h has the same bytes.

/** l: in al, 0x10; out 0x10, al; jmp l */
export const PIO_GUEST = [0xe4, 0x10, 0xe6, 0x10, 0xeb, 0xfa];
/** mov ax, 0x2000; mov es, ax; l: mov al, es:[0]; mov es:[0], al; jmp l */
export const MMIO_GUEST = [0xb8, 0x00, 0x20, 0x8e, 0xc0, 0x26, 0xa0, 0x00, 0x00, 0x26, 0xa2, 0x00, 0x00, 0xeb, 0xf6];
/** The two loops in one: in, out, MMIO read, MMIO write. */
export const BOTH_GUEST = [...MMIO_GUEST.slice(0, 5), 0xe4, 0x10, 0xe6, 0x10, ...MMIO_GUEST.slice(5, 13), 0xeb, 0xf2];
/** l: in ax, 0x10; mov cx, ax; loop $; jmp l: the answer says how long it counts before it asks again. */
export const PACED_GUEST = [0xe5, 0x10, 0x89, 0xc1, 0xe2, 0xfe, 0xeb, 0xf8];

let sum = 0;

/** Looks at an exit, takes what the guest wrote, answers what it reads. */
export function handle(exit) {
  switch (exit.reason) {
    case 'io':
      if (exit.port !== 0x10) throw new Error(`unexpected port ${exit.port}`);
      if (exit.direction === 'in') exit.data[0] = 1;
      else sum += exit.data[0];
      break;
    case 'mmio':
      if (exit.gpa !== 0x20000n) throw new Error(`unexpected gpa ${exit.gpa}`);
      if (exit.direction === 'write') sum += exit.data[0];
      else exit.data[0] = 1;
      break;
    default:
      throw new Error(`unexpected exit: ${exit.reason}`);
  }
}
