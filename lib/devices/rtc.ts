/** The CMOS clock (MC146818): the date at boot, and 114 bytes that keep what is written. UTC, 24 hours, BCD. */
import type { PortDevice } from './ports.ts';

const INDEX = 0;
const STATUS_A = 0x0a;
const STATUS_B = 0x0b;
const STATUS_C = 0x0c;
const STATUS_D = 0x0d;
const CENTURY = 0x32;
/** Base of 32768 Hz, 1024 Hz. No update is ever in progress: a read takes the time of that moment. */
const A_DEFAULT = 0x26;
const B_24_HOURS = 0x02;
const B_BINARY = 0x04;
const D_BATTERY_GOOD = 0x80;

export interface RtcOptions {
  /** Milliseconds since 1970. Default: `Date.now`. */
  readonly now?: () => number;
}

/** Alarms and periodic interrupts are not there: kernels that ask for them find them never due. */
export class Rtc implements PortDevice {
  readonly name = 'rtc';
  readonly #now: () => number;
  readonly #memory = new Uint8Array(128);
  #index = 0;

  constructor({ now = Date.now }: RtcOptions = {}) {
    this.#now = now;
    this.#memory[STATUS_A] = A_DEFAULT;
    this.#memory[STATUS_B] = B_24_HOURS;
  }

  readPort(offset: number): number {
    if (offset === INDEX) return this.#index;
    const time = this.#time(this.#index);
    if (time !== undefined) return (this.#memory[STATUS_B]! & B_BINARY) !== 0 ? time : bcd(time);
    if (this.#index === STATUS_C) return 0;
    if (this.#index === STATUS_D) return D_BATTERY_GOOD;
    return this.#memory[this.#index]!;
  }

  writePort(offset: number, _size: number, value: number): void {
    // Bit 7 of the index masks NMIs on a PC.
    if (offset === INDEX) this.#index = value & 0x7f;
    else if (this.#index === STATUS_A) this.#memory[STATUS_A] = value & 0x7f;
    else if (this.#index === STATUS_B) this.#memory[STATUS_B] = (value & 0xff) | B_24_HOURS;
    else if (this.#index > STATUS_D && this.#index !== CENTURY) this.#memory[this.#index] = value;
  }

  #time(index: number): number | undefined {
    const date = new Date(this.#now());
    switch (index) {
      case 0x00:
        return date.getUTCSeconds();
      case 0x02:
        return date.getUTCMinutes();
      case 0x04:
        return date.getUTCHours();
      case 0x06:
        return date.getUTCDay() + 1;
      case 0x07:
        return date.getUTCDate();
      case 0x08:
        return date.getUTCMonth() + 1;
      case 0x09:
        return date.getUTCFullYear() % 100;
      case CENTURY:
        return Math.floor(date.getUTCFullYear() / 100);
      default:
        return undefined;
    }
  }
}

function bcd(value: number): number {
  return (Math.floor(value / 10) << 4) | (value % 10);
}
