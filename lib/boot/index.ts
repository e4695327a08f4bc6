/**
 * From bytes to a launch image: kernels, initial RAM disks, memory maps, ACPI tables. Pure: needs neither the addon nor
 * /dev/kvm.
 */
export { LaunchImage } from '../memory/launch-image.ts';
export type { LaunchKind, LaunchPart, LaunchPartOptions, LaunchVcpu } from '../memory/launch-image.ts';
export { acpiTables, addAcpiTables } from './acpi/index.ts';
export type { AcpiOptions, AcpiTables, Devices } from './acpi/index.ts';
export { isBzImage, parseBzImage } from './bzimage.ts';
export type { BzImage } from './bzimage.ts';
export { commandLineBytes, hasParameter } from './command-line.ts';
export { isElf, parseElf, physicalEntry } from './elf.ts';
export type { Elf, ElfNote, ElfSegment } from './elf.ts';
export { bootFlat } from './flat.ts';
export type { CpuMode, FlatOptions } from './flat.ts';
export type { BootOptions } from './image.ts';
export { bootKernel, examineKernel } from './kernel.ts';
export type { BootProtocol, KernelFormat, KernelOptions } from './kernel.ts';
export { bootBzImage, bootVmlinux } from './linux.ts';
export { E820_RAM, E820_RESERVED, e820, ramRanges } from './memory-map.ts';
export type { E820Entry, RamRange } from './memory-map.ts';
export { MP_TABLE_MAX_CPUS, mpTable } from './mp-table.ts';
export { bootMultiboot, findMultibootHeader } from './multiboot.ts';
export type { MultibootHeader } from './multiboot.ts';
export { identityPageTables } from './page-tables.ts';
export { GSIS, HIGH_MEMORY, HOLE_END, HOLE_START, LOW, MAX_VIRTIO_DEVICES, PORTS, virtioMmioSlot } from './platform.ts';
export type { VirtioMmioSlot } from './platform.ts';
export { bootPvh, pvhEntry } from './pvh.ts';
export { zeroPage } from './zero-page.ts';
export type { ZeroPageFields } from './zero-page.ts';
