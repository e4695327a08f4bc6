/**
 * What conversions are asked for: by the program (bad input throws) and by the guest (bad input is an error number for
 * the guest, and nothing else happens). Either way a range lies in slots as a whole before the kernel sees it: the
 * kernel would take 2^52 bytes, and 2.4 MiB of its memory per GiB of them.
 */
import * as args from '../arguments.ts';
import { KVM_EINVAL, KVM_EOPNOTSUPP, KVM_MAP_GPA_RANGE_ENCRYPTED, KVM_MAP_GPA_RANGE_PAGE_SZ_1G } from '../abi/index.ts';
import { KvmGuestError, KvmStateError } from '../errors.ts';
import { noConversion } from './attributes-port.ts';
import type { Attribute } from './events.ts';
import { hex } from './layout.ts';
import type { Layout } from './layout.ts';
import type { HypercallPort, MemoryFaultPort, VmPort } from './ports.ts';
import type { MemoryRegion } from './region.ts';

const ENCRYPTED = Number(KVM_MAP_GPA_RANGE_ENCRYPTED);
const PAGE_SZ_1G = Number(KVM_MAP_GPA_RANGE_PAGE_SZ_1G);

export interface Range {
  readonly start: number;
  readonly end: number;
}

export interface Wanted extends Range {
  readonly to: Attribute;
}

/** A page-aligned range that lies in slots as a whole. */
export function checkRange(layout: Layout<MemoryRegion>, gpa: unknown, size: unknown): Range {
  const start = Number(args.pageAlignedGpa('gpa', gpa));
  const end = start + Number(args.pageAlignedGpaRange(gpa, size));
  if (layout.gap(start, end) !== undefined) throw layout.outside('gpa', gpa as bigint, start, end);
  return { start, end };
}

/** Whether the range can be made private or shared. @throws what to do about it where not. */
export function checkConvertible(vm: VmPort, layout: Layout<MemoryRegion>, { start, end, to }: Wanted): void {
  for (const { region } of layout.segments(start, end)) {
    if (region.oneMemory) throw noConversion(vm);
    if (to === 'private' && !region.convertible) {
      throw new KvmStateError(
        `Slot ${region.slot} at ${hex(region.start)} has no guest_memfd, so it cannot be ` +
          'private; add it with `private: true`',
      );
    }
  }
}

/**
 * The arguments of KVM_HC_MAP_GPA_RANGE, which come from the guest: gpa, number of 4 KiB pages, attributes (bits 3:0
 * are the preferred page size, bit 4 is private, the rest must be 0). Returns what it wants, or the error for its RAX.
 */
export function parseMapGpaRange(layout: Layout<MemoryRegion>, exit: HypercallPort): Wanted | bigint {
  const { args: given } = exit;
  if (!Array.isArray(given)) throw args.typeError('an array of bigint', 'exit.args', given);
  for (let at = 0; at < 3; at++) {
    const value: unknown = given[at];
    if (typeof value !== 'bigint' && value !== undefined) throw args.typeError('a bigint', `exit.args[${at}]`, value);
  }
  // As numbers: all that is allowed is exact as such, and the comparison sorts out the rest.
  const attributes = Number(given[2] ?? 0n);
  const pageSize = attributes % 16;
  if (attributes > (0xf | ENCRYPTED) || pageSize > PAGE_SZ_1G) return -KVM_EINVAL;
  const start = Number(given[0] ?? 0n);
  const pages = Number(given[1] ?? 0n);
  const end = start + pages * args.PAGE_SIZE;
  if (start >= 2 ** 52 || end > 2 ** 52 || pages === 0 || !Number.isInteger(start / args.PAGE_SIZE)) return -KVM_EINVAL;
  if (layout.gap(start, end) !== undefined) return -KVM_EINVAL;
  const to = (attributes & ENCRYPTED) !== 0 ? 'private' : 'shared';
  for (const { region } of layout.segments(start, end)) {
    if (region.oneMemory || (to === 'private' && !region.convertible)) return -KVM_EOPNOTSUPP;
  }
  return { start, end, to };
}

/** What KVM_EXIT_MEMORY_FAULT wants. @throws KvmGuestError where no conversion can give it. */
export function parseMemoryFault(vm: VmPort, layout: Layout<MemoryRegion>, exit: MemoryFaultPort): Wanted {
  if (typeof exit !== 'object' || exit === null || typeof exit.gpa !== 'bigint' || typeof exit.size !== 'bigint') {
    throw args.typeError('a memory-fault exit', 'exit', exit);
  }
  const to: Attribute = exit.private ? 'private' : 'shared';
  const where = `The guest's ${to} access at ${hex(exit.gpa)} cannot be served`;
  const fail = (why: string, cause?: unknown): KvmGuestError =>
    new KvmGuestError(`${where}: ${why}`, { exit: { ...exit }, ...(cause === undefined ? {} : { cause }) });
  if (exit.errno === 'EHWPOISON') throw fail('the page behind it has a hardware error');
  const first = exit.gpa - (exit.gpa % 4096n);
  const last = exit.gpa + (exit.size > 0n ? exit.size : 1n);
  if (last > 1n << 52n) throw fail('it is beyond the guest physical address space');
  const [start, end] = [Number(first), Math.ceil(Number(last) / args.PAGE_SIZE) * args.PAGE_SIZE];
  const gap = layout.gap(start, end);
  if (gap !== undefined) throw fail(`nothing is at ${hex(gap)}; guest memory is ${layout.describe()}`);
  try {
    checkConvertible(vm, layout, { start, end, to });
  } catch (cause) {
    throw fail((cause as Error).message, cause);
  }
  return { start, end, to };
}
