import { describe, expect, it, vi } from 'vitest';
import {
  DebugExit,
  I8042,
  PM_TIMER_HZ,
  PortBus,
  MmioBus,
  PowerManagement,
  Pvpanic,
  ResetRegister,
  Rtc,
  Serial,
} from '../../lib/devices/index.ts';
import type { PortDevice } from '../../lib/devices/index.ts';

function line() {
  const levels: boolean[] = [];
  return {
    levels,
    get level() {
      return levels.at(-1) ?? false;
    },
    set: (level: boolean) => {
      levels.push(level);
    },
  };
}

describe('the buses', () => {
  const echo = (name: string): PortDevice & { written: number[][] } => {
    const written: number[][] = [];
    return {
      name,
      written,
      readPort: (offset) => 0x1000 + offset,
      writePort: (...access) => {
        written.push(access);
      },
    };
  };

  it('take an access to the device that it begins in', () => {
    const bus = new PortBus();
    const [first, second] = [echo('first'), echo('second')];
    bus.add(0x100, 8, first);
    bus.add(0x108, 2, second);
    const data = new Uint8Array(2);
    bus.access('in', 0x107, 2, data);
    expect(data).toEqual(Uint8Array.of(0x07, 0x10));
    bus.access('out', 0x108, 2, Uint8Array.of(1, 2, 3, 4));
    expect(second.written).toEqual([
      [0, 2, 0x0201],
      [0, 2, 0x0403],
    ]);
    expect(() => bus.add(0x109, 1, first)).toThrow(expect.objectContaining({ code: 'ERR_KVM_OVERLAP' }));
  });

  it('give ones where there is nothing', () => {
    const data = new Uint8Array(4);
    new PortBus().access('in', 0xcfc, 4, data);
    expect(data).toEqual(new Uint8Array(4).fill(0xff));
    const mmio = new MmioBus();
    mmio.access('read', 0xfed0_0000n, data.fill(0));
    expect(data).toEqual(new Uint8Array(4).fill(0xff));
  });
});

describe('the serial port', () => {
  const write = (serial: Serial, ...pairs: [number, number][]) =>
    pairs.forEach(([offset, value]) => serial.writePort(offset, 1, value));

  it('sends to its stream, and says that it is ready for more', async () => {
    const serial = new Serial('com1', line());
    for (const byte of Buffer.from('hello\n')) {
      expect(serial.readPort(5) & 0x60).toBe(0x60);
      write(serial, [0, byte]);
    }
    const [chunk] = await serial.stream
      .iterator({ destroyOnReturn: false })
      .next()
      .then(({ value }) => [value as Buffer]);
    expect(chunk!.toString()).toBe('hello\n');
  });

  it('passes its kernel probe: scratch, divisor, FIFOs and loop-back', () => {
    const serial = new Serial('com1', line());
    write(serial, [7, 0xa5], [3, 0x83], [0, 1], [1, 0]);
    expect([serial.readPort(7), serial.readPort(0), serial.readPort(1)]).toEqual([0xa5, 1, 0]);
    write(serial, [3, 0x03], [2, 0x07]);
    expect(serial.readPort(2) & 0xc0).toBe(0xc0);
    write(serial, [4, 0x1a]);
    expect(serial.readPort(6) & 0xf0).toBe(0x90);
    write(serial, [0, 0x42]);
    expect([serial.readPort(5) & 1, serial.readPort(0)]).toEqual([1, 0x42]);
  });

  it('interrupts for input and for an empty transmitter, until each was seen to', () => {
    const irq = line();
    const serial = new Serial('com1', irq);
    write(serial, [4, 0x08], [1, 0x03]);
    expect(irq.level).toBe(true);
    expect(serial.readPort(2)).toBe(0x02);
    expect(irq.level).toBe(false);
    expect(serial.readPort(2)).toBe(0x01);
    serial.stream.write('ab');
    expect([irq.level, serial.readPort(2)]).toEqual([true, 0x04]);
    expect([serial.readPort(0), irq.level, serial.readPort(0), irq.level]).toEqual([0x61, true, 0x62, false]);
    write(serial, [4, 0]);
    serial.stream.write('c');
    expect(irq.level).toBe(false);
  });

  it('takes more input than it has room for, in order', () => {
    const serial = new Serial('com1', line(), { inputLimit: 4 });
    serial.stream.write('0123456789');
    let text = '';
    while ((serial.readPort(5) & 1) !== 0) text += String.fromCharCode(serial.readPort(0));
    expect(text).toBe('0123456789');
  });

  it('is busy while nobody reads what it sent', async () => {
    const serial = new Serial('com1', line(), { outputLimit: 8 });
    for (let count = 0; count < 8; count++) write(serial, [0, 0x78]);
    await new Promise((resolve) => setImmediate(resolve));
    expect(serial.readPort(5) & 0x60).toBe(0);
    expect((serial.stream.read() as Buffer).toString()).toBe('xxxxxxxx');
    await vi.waitUntil(() => (serial.readPort(5) & 0x60) === 0x60);
  });
});

describe('what else a PC has', () => {
  it('a clock that tells the date in BCD, and in binary when asked', () => {
    const rtc = new Rtc({ now: () => Date.UTC(2031, 11, 9, 23, 58, 7) });
    const read = (index: number): number => {
      rtc.writePort(0, 1, index | 0x80);
      return rtc.readPort(1);
    };
    expect([0, 2, 4, 7, 8, 9, 0x32].map(read)).toEqual([0x07, 0x58, 0x23, 0x09, 0x12, 0x31, 0x20]);
    expect(read(0x0a) & 0x80).toBe(0);
    rtc.writePort(0, 1, 0x0b);
    rtc.writePort(1, 1, 0x06);
    expect([0, 2, 4].map(read)).toEqual([7, 58, 23]);
    rtc.writePort(0, 1, 0x40);
    rtc.writePort(1, 1, 0x99);
    expect(read(0x40)).toBe(0x99);
  });

  it('a power button, soft-off and the PM timer', () => {
    const irq = line();
    const off = vi.fn();
    let now = 0n;
    const power = new PowerManagement(irq, { softOff: 5, onPowerOff: off, now: () => now });
    expect(power.readPort(4, 2) & 1).toBe(1);
    expect(power.hearsPowerButton).toBe(false);
    power.writePort(2, 2, 1 << 8);
    power.pressPowerButton();
    expect([power.hearsPowerButton, irq.level, power.readPort(0, 2)]).toEqual([true, true, 1 << 8]);
    power.writePort(0, 2, 1 << 8);
    expect([irq.level, power.readPort(0, 4)]).toEqual([false, 1 << 24]);
    now = 1_000_000_000n;
    expect(power.readPort(8, 4)).toBe(PM_TIMER_HZ);
    now = 1_200_000_000_000n;
    expect(power.readPort(8, 4)).toBe((1200 * PM_TIMER_HZ) % 2 ** 32);
    power.writePort(4, 2, (3 << 10) | (1 << 13));
    expect(off).not.toHaveBeenCalled();
    power.writePort(4, 2, (5 << 10) | (1 << 13));
    expect(off).toHaveBeenCalledOnce();
  });

  it('two ways to reset, a panic port and an exit port', () => {
    const reset = vi.fn();
    new ResetRegister(6, reset).writePort(0, 1, 2);
    expect(reset).not.toHaveBeenCalled();
    new ResetRegister(6, reset).writePort(0, 1, 0x0e);
    const keyboard = new I8042(reset);
    keyboard.writePort(4, 1, 0xff);
    expect(reset).toHaveBeenCalledOnce();
    keyboard.writePort(4, 1, 0xfe);
    expect(reset).toHaveBeenCalledTimes(2);
    keyboard.writePort(4, 1, 0xaa);
    expect([keyboard.readPort(4) & 1, keyboard.readPort(0), keyboard.readPort(4) & 1]).toEqual([1, 0x55, 0]);

    const events = vi.fn();
    const panic = new Pvpanic(events);
    expect(panic.readPort()).toBe(7);
    panic.writePort(0, 1, 1);
    expect(events.mock.calls).toEqual([['panicked']]);
    const exit = vi.fn();
    new DebugExit(exit).writePort(0, 4, 3);
    expect(exit).toHaveBeenCalledWith(7);
  });
});
