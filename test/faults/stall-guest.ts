/** Guests of the stall tests. */
import { expect } from 'vitest';
import type { Vcpu, Vm } from '../../lib/kvm/index.ts';
import { realMode } from '../kvm/vcpu-guest.ts';
import type { Guest } from '../kvm/vcpu-guest.ts';

/** The interrupt that {@link haltedGuest} answers. */
export const GSI = 5;
const HANDLER = 0x1200;

/** l: inc cx; mov [0x2000], cx; mov ax, cx; out 0x10, ax; jmp l: counts, and tells each number once. */
export const COUNT_OUT = [0x41, 0x89, 0x0e, 0x00, 0x20, 0x89, 0xc8, 0xe7, 0x10, 0xeb, 0xf5];

/** The same, with a while in the guest between two exits: mov dx, 200; d: dec dx; jnz d */
// prettier-ignore
export const COUNT_SLOWLY = [
  0x41, 0x89, 0x0e, 0x00, 0x20, 0xba, 0xc8, 0x00, 0x4a, 0x75, 0xfd, 0x89, 0xc8, 0xe7, 0x10, 0xeb, 0xef,
];

/** Programs the first PIC (vectors from 0x20, only IRQ 5 open), then waits: l: hlt; jmp l */
// prettier-ignore
const HALT = [
  0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xdf, 0xe6,
  0x21,
  0xc7, 0x06, 0x94, 0x00, 0x00, HANDLER >> 8, // mov word [0x94], HANDLER
  0xc7, 0x06, 0x96, 0x00, 0x00, 0x00, //         mov word [0x96], 0
  0xe6, 0x81, 0xfb, 0xf4, 0xeb, 0xfd, //         out 0x81, al; sti; l: hlt; jmp l
];
/** out 0x80, al; mov al, 0x20; out 0x20, al (end of interrupt); iret: one exit for each interrupt. */
const ANSWER = [0xe6, 0x80, 0xb0, 0x20, 0xe6, 0x20, 0xcf];

/** A guest that waits in HLT with the interrupt controllers in the kernel, so that no exit is made of it. */
export function haltedGuest(): Guest & { readonly vm: Vm; readonly vcpu: Vcpu } {
  const guest = realMode(HALT, { prepare: (vm) => vm.createIrqchip(), regs: { rsp: 0x8000n } });
  guest.memory.set(ANSWER, HANDLER);
  // An edge that comes before the controller is programmed is lost, as it is on any PC.
  expect(guest.vcpu.runSync()).toMatchObject({ reason: 'io', port: 0x81 });
  return guest;
}

/** Prints the largest: a stall has no bound that a test could hold on every machine, but a figure to look at. */
export function reportMax(what: string, milliseconds: readonly number[]): void {
  console.info(`${what} ${Math.max(...milliseconds).toFixed(1)} ms at most, of ${milliseconds.length}`);
}
