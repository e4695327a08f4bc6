/** ACPI's fixed hardware: the power button, soft-off, the PM timer and the reset register (ACPI 6.5, 4.8). */
import type { InterruptLine, PortDevice } from './ports.ts';

/** Ticks per second of the PM timer. */
export const PM_TIMER_HZ = 3_579_545;

const PM1_STATUS = 0;
const PM1_ENABLE = 2;
const STATUS_TIMER = 1 << 0;
const STATUS_POWER_BUTTON = 1 << 8;
const CONTROL_SCI_ENABLE = 1 << 0;
const CONTROL_SLEEP_ENABLE = 1 << 13;
const CONTROL_SLEEP_TYPE_SHIFT = 10;

export interface PowerOptions {
  /** Sleep type of soft-off, as the DSDT's _S5 has it. */
  readonly softOff: number;
  /** The guest switched itself off. */
  readonly onPowerOff: () => void;
  /** Nanoseconds, monotonic. Default: `process.hrtime.bigint`. */
  readonly now?: () => bigint;
}

/**
 * PM1 event block (4 ports), PM1 control block (2 ports) and PM timer (4 ports), one behind the other with two unused
 * ports before the timer. ACPI mode is always on, so no SMI is needed to enter it.
 */
export class PowerManagement implements PortDevice {
  readonly name = 'power management';
  readonly #line: InterruptLine;
  readonly #options: PowerOptions;
  readonly #now: () => bigint;
  #status = 0;
  #enable = 0;
  #control = CONTROL_SCI_ENABLE;

  constructor(line: InterruptLine, options: PowerOptions) {
    this.#line = line;
    this.#options = options;
    this.#now = options.now ?? process.hrtime.bigint;
  }

  /** Presses the power button: a guest with ACPI shuts itself down. */
  pressPowerButton(): void {
    this.#status |= STATUS_POWER_BUTTON;
    this.#update();
  }

  /** Whether the guest listens for the power button. */
  get hearsPowerButton(): boolean {
    return (this.#enable & STATUS_POWER_BUTTON) !== 0;
  }

  readPort(offset: number, size: number): number {
    if (offset >= 8) return this.timer() >>> (8 * (offset - 8));
    const registers = [this.#status, this.#enable, this.#control, 0xffff];
    const low = registers[offset >> 1]!;
    const high = size === 4 ? (registers[(offset >> 1) + 1] ?? 0xffff) : 0;
    return ((low >>> (8 * (offset & 1))) | (high << 16)) >>> 0;
  }

  writePort(offset: number, size: number, value: number): void {
    if (size === 4 && offset === PM1_STATUS) {
      this.writePort(PM1_STATUS, 2, value & 0xffff);
      this.writePort(PM1_ENABLE, 2, value >>> 16);
      return;
    }
    const shifted = size === 1 ? (value & 0xff) << (8 * (offset & 1)) : value & 0xffff;
    const register = offset & ~1;
    if (register === PM1_STATUS) this.#status &= ~shifted;
    else if (register === PM1_ENABLE) this.#enable = size === 1 ? merge(this.#enable, offset, shifted) : shifted;
    else if (register === 4) this.#writeControl(size === 1 ? merge(this.#control, offset, shifted) : shifted);
    this.#update();
  }

  /** The PM timer, 32 bits. */
  timer(): number {
    return Number(((this.#now() * BigInt(PM_TIMER_HZ)) / 1_000_000_000n) & 0xffff_ffffn);
  }

  reset(): void {
    this.#status = this.#enable = 0;
    this.#control = CONTROL_SCI_ENABLE;
    this.#update();
  }

  #writeControl(value: number): void {
    this.#control = (value & ~CONTROL_SLEEP_ENABLE) | CONTROL_SCI_ENABLE;
    if ((value & CONTROL_SLEEP_ENABLE) !== 0 && ((value >> CONTROL_SLEEP_TYPE_SHIFT) & 7) === this.#options.softOff) {
      this.#options.onPowerOff();
    }
  }

  #update(): void {
    this.#line.set((this.#status & this.#enable & (STATUS_POWER_BUTTON | STATUS_TIMER)) !== 0);
  }
}

/** The reset register: one port, one value. */
export class ResetRegister implements PortDevice {
  readonly name = 'reset register';
  readonly #value: number;
  readonly #onReset: () => void;

  constructor(value: number, onReset: () => void) {
    this.#value = value;
    this.#onReset = onReset;
  }

  readPort(): number {
    return 0;
  }

  writePort(_offset: number, _size: number, value: number): void {
    if ((value & this.#value) === this.#value) this.#onReset();
  }
}

function merge(old: number, offset: number, shifted: number): number {
  return (offset & 1) === 0 ? (old & 0xff00) | shifted : (old & 0xff) | shifted;
}
