/**
 * The part of the i8042 keyboard controller that a PC cannot do without: the pulse on the processor's reset line. Its
 * status says that there is no keyboard data, and that it takes commands.
 */
import type { PortDevice } from './ports.ts';

const DATA = 0;
/** System control port B (0x61), between the two: kernels calibrate by the gate of timer 2. */
const CONTROL_B = 1;
const COMMAND = 4;
const STATUS_SELF_TEST_PASSED = 0x04;
const STATUS_OUTPUT_FULL = 0x01;
const READ_CONFIGURATION = 0x20;
const SELF_TEST = 0xaa;
const TEST_PORT_1 = 0xab;
const READ_OUTPUT_PORT = 0xd0;
/** Pulse output lines 0 to 3, of which line 0 is reset: bits that are 0 are pulsed. */
const PULSE = 0xf0;
const RESET_LINE = 1;

export class I8042 implements PortDevice {
  readonly name = 'i8042';
  readonly #onReset: () => void;
  #answer: number | undefined;

  /** @param onReset the guest pulsed the reset line */
  constructor(onReset: () => void) {
    this.#onReset = onReset;
  }

  readPort(offset: number): number {
    if (offset === DATA) {
      const value = this.#answer ?? 0;
      this.#answer = undefined;
      return value;
    }
    if (offset === COMMAND) return STATUS_SELF_TEST_PASSED | (this.#answer === undefined ? 0 : STATUS_OUTPUT_FULL);
    return offset === CONTROL_B ? 0x20 : 0xff;
  }

  writePort(offset: number, _size: number, value: number): void {
    if (offset !== COMMAND) return;
    const command = value & 0xff;
    if ((command & PULSE) === PULSE && (command & RESET_LINE) === 0) this.#onReset();
    else if (command === READ_CONFIGURATION)
      this.#answer = 0x30; // both ports off, no interrupts
    else if (command === SELF_TEST) this.#answer = 0x55;
    else if (command === TEST_PORT_1)
      this.#answer = 0x01; // the clock line is stuck: nothing is plugged in
    else if (command === READ_OUTPUT_PORT) this.#answer = 0x01;
  }
}
