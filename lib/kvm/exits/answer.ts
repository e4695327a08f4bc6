/** Reading and answering exits without minding widths and byte order. All act on the live views of the exit. */
import { types } from 'node:util';
import { bytes, rangeError, typeError, u64, uint } from '../../arguments.ts';
import type { HypercallExit, IoExit, MmioExit, RdmsrExit, VcpuExit, WrmsrExit } from './types.ts';

/** The live view of an exit that came from a vCPU; what was put together by hand may have anything. */
function live<T extends Uint8Array | BigUint64Array | BigInt64Array>(
  is: (value: unknown) => value is T,
  what: string,
  name: string,
  value: unknown,
): T {
  if (!is(value)) throw typeError(what, name, value);
  return value;
}

/** Whether the guest waits for bytes: an `in` from a port, or a read from MMIO. */
export function isRead(exit: IoExit | MmioExit): boolean {
  if (exit?.reason !== 'io' && exit?.reason !== 'mmio') throw typeError('an io or mmio exit', 'exit', exit);
  return exit.direction === 'in' || exit.direction === 'read';
}

/**
 * What the guest wrote, as one little-endian number. For string instructions (`count` above 1), the first access.
 *
 * @throws RangeError for an access of 8 bytes; {@link accessValue64} takes those.
 */
export function accessValue(exit: IoExit | MmioExit): number {
  const length = accessSize(exit);
  if (length > 4) throw rangeError('an access of at most 4 bytes', 'exit.data', length);
  let value = 0;
  for (let index = length - 1; index >= 0; index--) value = value * 256 + exit.data[index]!;
  return value;
}

/** What the guest wrote, as one little-endian bigint of up to 8 bytes. */
export function accessValue64(exit: IoExit | MmioExit): bigint {
  let value = 0n;
  for (let index = accessSize(exit) - 1; index >= 0; index--) value = (value << 8n) | BigInt(exit.data[index]!);
  return value;
}

/**
 * Answers a read with a little-endian value; bits beyond the width of the access are cut off, as a bus does it. With
 * `rep ins`, every repetition gets the same value.
 *
 * @throws TypeError where the exit is a write.
 */
export function answerRead(exit: IoExit | MmioExit, value: number | bigint): void {
  if (!isRead(exit)) throw typeError('an exit that reads', 'exit.direction', exit.direction);
  const size = accessSize(exit);
  if (typeof value !== 'bigint') uint('value', value, { min: Number.MIN_SAFE_INTEGER });
  let rest = BigInt.asUintN(64, BigInt(value));
  for (let index = 0; index < size; index++) {
    const byte = Number(rest & 0xffn);
    for (let at = index; at < exit.data.length; at += size) exit.data[at] = byte;
    rest >>= 8n;
  }
}

/** Answers a hypercall: 0 for success, or a negated KVM errno (-22n is -KVM_EINVAL). Default: 0. */
export function answerHypercall(exit: HypercallExit, ret: bigint = 0n): void {
  if (exit?.reason !== 'hypercall') throw typeError('a hypercall exit', 'exit', exit);
  if (typeof ret !== 'bigint') throw typeError('a bigint', 'ret', ret);
  live(types.isBigInt64Array, 'a BigInt64Array', 'exit.ret', exit.ret)[0] = ret;
}

/** Answers an RDMSR with a value. */
export function answerMsr(exit: RdmsrExit, value: bigint): void {
  if (exit?.reason !== 'rdmsr') throw typeError('an rdmsr exit', 'exit', exit);
  live(types.isBigUint64Array, 'a BigUint64Array', 'exit.data', exit.data)[0] = u64('value', value);
  bytes('exit.error', exit.error)[0] = 0;
}

/** Makes the RDMSR or WRMSR raise #GP in the guest. */
export function refuseMsr(exit: RdmsrExit | WrmsrExit): void {
  if (exit?.reason !== 'rdmsr' && exit?.reason !== 'wrmsr') throw typeError('an rdmsr or wrmsr exit', 'exit', exit);
  bytes('exit.error', exit.error)[0] = 1;
}

/**
 * A copy of the exit whose views are detached from the mapping, to be kept beyond the next run or posted to another
 * thread.
 */
export function copyExit<E extends VcpuExit>(exit: E): E {
  if (typeof exit?.reason !== 'string') throw typeError('an exit', 'exit', exit);
  const copy: Record<string, unknown> = { ...exit };
  for (const [key, value] of Object.entries(copy)) {
    if (types.isTypedArray(value)) copy[key] = (value as Uint8Array).slice();
  }
  return copy as unknown as E;
}

function accessSize(exit: IoExit | MmioExit): number {
  if (exit?.reason !== 'io' && exit?.reason !== 'mmio') throw typeError('an io or mmio exit', 'exit', exit);
  const { length } = bytes('exit.data', exit.data);
  return exit.reason === 'io' ? Math.min(uint('exit.size', exit.size), length) : length;
}
