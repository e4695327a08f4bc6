/** The differentiated table: the devices that no bus can list (ACPI 6.5, 5.2.11.1). */
import { GSIS, PORTS, S5_SLEEP_TYPE } from '../platform.ts';
import type { VirtioMmioSlot } from '../platform.ts';
import { aPackage, device, eisaId, integer, name, scope, text } from './aml.ts';
import { edgeInterrupt, ioPorts, isaInterrupt, memory32, resources } from './resources.ts';
import { table } from './tables.ts';

type Bytes = readonly number[];

export interface Devices {
  /** How many 16550 UARTs, 0 to 4. */
  readonly serialPorts: number;
  readonly virtioMmio: readonly VirtioMmioSlot[];
  /** Whether pvpanic's port is there. */
  readonly pvpanic: boolean;
}

/** Status: present, enabled, shown, working. */
const PRESENT = 0xf;

export function dsdt({ serialPorts, virtioMmio, pvpanic }: Devices): Uint8Array {
  const devices: Bytes[] = [
    device('RTC0', [
      name('_HID', eisaId('PNP0B00')),
      name('_CRS', resources([ioPorts(PORTS.rtc, 2), isaInterrupt(GSIS.rtc)])),
    ]),
    ...Array.from({ length: serialPorts }, (_, index) =>
      device(`COM${index + 1}`, [
        name('_HID', eisaId('PNP0501')),
        name('_UID', integer(index + 1)),
        name('_CRS', resources([ioPorts(PORTS.serial[index]!, 8), isaInterrupt(GSIS.serial[index]!)])),
      ]),
    ),
    ...virtioMmio.map(({ gpa, size, gsi }, index) =>
      device(`VR${String(index).padStart(2, '0')}`, [
        // The id by which Linux's virtio-mmio driver knows a device of ACPI.
        name('_HID', text('LNRO0005')),
        name('_UID', integer(index)),
        name('_CCA', integer(1)),
        name('_STA', integer(PRESENT)),
        name('_CRS', resources([memory32(gpa, size), edgeInterrupt(gsi)])),
      ]),
    ),
  ];
  if (pvpanic) {
    devices.push(
      device('PEVT', [
        name('_HID', text('QEMU0001')),
        name('_STA', integer(PRESENT)),
        name('_CRS', resources([ioPorts(PORTS.pvpanic, 1)])),
      ]),
    );
  }
  const softOff = name('_S5', aPackage([integer(S5_SLEEP_TYPE), integer(S5_SLEEP_TYPE), integer(0), integer(0)]));
  return table('DSDT', 2, Uint8Array.from([...softOff, ...scope('_SB', devices)]));
}
