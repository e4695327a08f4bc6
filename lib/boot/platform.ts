/**
 * The machine that guests are told of, in one place: addresses, ports and interrupts. Boot code writes them into
 * tables, devices answer there, the machine connects the two.
 */

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;

/** Guest memory below 1 MiB, where boot data lives. Ends are after the last byte. */
export const LOW = {
  /** Global descriptor table of the boot vCPU, and behind it an empty interrupt descriptor table. */
  gdt: 0x500n,
  idt: 0x520n,
  /** struct hvm_start_info of PVH, its modules and memory map; or the multiboot information. */
  startInfo: 0x6000n,
  startInfoEnd: 0x7000n,
  /** struct boot_params of Linux. */
  zeroPage: 0x7000n,
  /** Page tables of the boot vCPU: at most 6 pages. */
  pageTables: 0x9000n,
  pageTablesEnd: 0x10000n,
  commandLine: 0x20000n,
  commandLineEnd: 0x30000n,
  /** End of conventional memory: the BIOS data area's last KiB holds the MP table. */
  extendedBiosData: 0x9_fc00n,
  extendedBiosDataEnd: 0xa_0000n,
  /** Where kernels look for the RSDP. Reserved in the memory map. */
  acpi: 0xe_0000n,
  acpiEnd: 0x10_0000n,
} as const;

/** The first byte of memory above the boot data and the BIOS area. */
export const HIGH_MEMORY = BigInt(MiB);

/** Guest memory stops here and goes on at 4 GiB: between the two are device registers. */
export const HOLE_START = BigInt(3 * GiB);
export const HOLE_END = BigInt(4 * GiB);

/** Register windows of virtio-mmio devices, one page each. */
export const VIRTIO_MMIO_START = 0xd000_0000n;
export const VIRTIO_MMIO_STRIDE = 0x1000n;
export const IOAPIC_ADDRESS = 0xfec0_0000;
export const LAPIC_ADDRESS = 0xfee0_0000;
/** Four pages that KVM keeps for itself on Intel processors: the identity map and the task state segment. */
export const IDENTITY_MAP_ADDRESS = 0xfffb_c000n;
export const TSS_ADDRESS = 0xfffb_d000n;

/** I/O ports. */
export const PORTS = {
  i8042: 0x60,
  i8042Size: 5,
  rtc: 0x70,
  debugExit: 0xf4,
  serial: [0x3f8, 0x2f8, 0x3e8, 0x2e8],
  pvpanic: 0x505,
  /** PM1a event block (4 bytes), control block (2), PM timer (4). */
  pm1Event: 0x600,
  pm1Control: 0x604,
  pmTimer: 0x608,
  /** The reset register of ACPI, where PCs have had it. */
  reset: 0xcf9,
} as const;

/** Global system interrupts. */
export const GSIS = {
  serial: [4, 3, 4, 3],
  rtc: 8,
  /** ACPI's system control interrupt, level triggered. */
  sci: 9,
  /** For virtio devices, edge triggered: first those that no ISA device has a claim to. */
  virtio: [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 13, 14, 15],
} as const;

/** ACPI sleep type of soft-off (S5), as the DSDT names it and the power device sees it. */
export const S5_SLEEP_TYPE = 5;
/** What a write to the reset register must hold to reset. */
export const RESET_VALUE = 6;

/** More devices than this have no interrupt of their own. */
export const MAX_VIRTIO_DEVICES = GSIS.virtio.length;

/** A virtio-mmio device as the tables name it. */
export interface VirtioMmioSlot {
  readonly gpa: bigint;
  readonly size: number;
  readonly gsi: number;
}

/** The window and the interrupt of the nth virtio-mmio device. */
export function virtioMmioSlot(index: number): VirtioMmioSlot {
  const gsi = GSIS.virtio[index];
  if (gsi === undefined)
    throw new RangeError(`Expected at most ${MAX_VIRTIO_DEVICES} virtio devices, and this is number ${index + 1}`);
  return { gpa: VIRTIO_MMIO_START + VIRTIO_MMIO_STRIDE * BigInt(index), size: Number(VIRTIO_MMIO_STRIDE), gsi };
}
