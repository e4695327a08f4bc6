/** Two ports by which a guest tells how it ended. */
import type { PortDevice } from './ports.ts';

/** A write ends the machine; the status is `value << 1 | 1`, never 0 by accident (as isa-debug-exit has it). */
export class DebugExit implements PortDevice {
  readonly name = 'debug exit';
  readonly #onExit: (status: number) => void;

  constructor(onExit: (status: number) => void) {
    this.#onExit = onExit;
  }

  readPort(): number {
    return 0;
  }

  writePort(_offset: number, _size: number, value: number): void {
    this.#onExit(((value << 1) | 1) & 0xff);
  }
}

/** What a guest kernel says of its own end. */
export type PanicEvent = 'panicked' | 'crash-loaded' | 'shutdown';

const EVENTS: readonly PanicEvent[] = ['panicked', 'crash-loaded', 'shutdown'];

/** pvpanic (QEMU, *pvpanic device*): a read says which events it takes, a write says which have happened. */
export class Pvpanic implements PortDevice {
  readonly name = 'pvpanic';
  readonly #onEvent: (event: PanicEvent) => void;

  constructor(onEvent: (event: PanicEvent) => void) {
    this.#onEvent = onEvent;
  }

  readPort(): number {
    return (1 << EVENTS.length) - 1;
  }

  writePort(_offset: number, _size: number, value: number): void {
    EVENTS.forEach((event, bit) => {
      if ((value & (1 << bit)) !== 0) this.#onEvent(event);
    });
  }
}
