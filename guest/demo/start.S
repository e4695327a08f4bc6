/*
 * Entered by the host in long mode, with paging on, everything below 1 GiB mapped to itself and all segments flat
 * (lib/demo/boot.ts). There is no IDT: a fault here is a triple fault, which the host sees as a shutdown exit.
 */
  .section .text.start, "ax"
  .code64
  .globl _start
_start:
  leaq stack_top(%rip), %rsp
  xorl %ebp, %ebp
  call guest_main
1:
  hlt
  jmp 1b

  .section .note.GNU-stack, "", @progbits
