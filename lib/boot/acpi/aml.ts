/**
 * The few terms of the ACPI machine language that a table of devices needs (ACPI 6.5, chapter 20). Each function gives
 * the bytes of one term.
 */

type Bytes = readonly number[];

const NAME_OP = 0x08;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const STRING_PREFIX = 0x0d;
const DUAL_NAME_PREFIX = 0x2e;
const MULTI_NAME_PREFIX = 0x2f;
const ROOT = 0x5c;
const DEVICE_OP = [0x5b, 0x82];

/** `Name (NAME, value)` */
export function name(path: string, value: Bytes): Bytes {
  return [NAME_OP, ...namePath(path), ...value];
}

/** `Scope (PATH) { ... }` */
export function scope(path: string, terms: readonly Bytes[]): Bytes {
  return [SCOPE_OP, ...packaged([...namePath(path), ...terms.flat()])];
}

/** `Device (NAME) { ... }` */
export function device(path: string, terms: readonly Bytes[]): Bytes {
  return [...DEVICE_OP, ...packaged([...namePath(path), ...terms.flat()])];
}

/** `Package () { ... }` */
export function aPackage(elements: readonly Bytes[]): Bytes {
  return [PACKAGE_OP, ...packaged([elements.length, ...elements.flat()])];
}

/** `Buffer () { ... }` */
export function buffer(bytes: Bytes): Bytes {
  return [BUFFER_OP, ...packaged([...integer(bytes.length), ...bytes])];
}

/** An integer in the shortest form. */
export function integer(value: number | bigint): Bytes {
  const wide = BigInt(value);
  if (wide === 0n) return [0x00];
  if (wide === 1n) return [0x01];
  if (wide <= 0xffn) return [0x0a, ...little(wide, 1)];
  if (wide <= 0xffffn) return [0x0b, ...little(wide, 2)];
  if (wide <= 0xffff_ffffn) return [0x0c, ...little(wide, 4)];
  return [0x0e, ...little(wide, 8)];
}

/** `"text"` */
export function text(value: string): Bytes {
  return [STRING_PREFIX, ...Buffer.from(value, 'latin1'), 0];
}

/** `EisaId ("PNP0501")`: three letters and four hexadecimal digits in 32 bits, high byte first. */
export function eisaId(id: string): Bytes {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new RangeError(`Expected an id such as PNP0501 but received ${id}`);
  const letter = (at: number): number => id.charCodeAt(at) - 0x40;
  const vendor = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  return [0x0c, vendor >> 8, vendor & 0xff, product >> 8, product & 0xff];
}

/** A value as little-endian bytes. */
export function little(value: bigint | number, bytes: number): Bytes {
  const wide = BigInt(value);
  return Array.from({ length: bytes }, (_, index) => Number((wide >> BigInt(8 * index)) & 0xffn));
}

function namePath(path: string): Bytes {
  const rooted = path.startsWith('\\');
  const segments = (rooted ? path.slice(1) : path).split('.').filter((segment) => segment !== '');
  const bytes = segments.flatMap((segment) => {
    if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment)) throw new RangeError(`${segment} is no ACPI name`);
    return [...Buffer.from(segment.padEnd(4, '_'))];
  });
  const prefix =
    segments.length <= 1 ? [] : segments.length === 2 ? [DUAL_NAME_PREFIX] : [MULTI_NAME_PREFIX, segments.length];
  return [...(rooted ? [ROOT] : []), ...prefix, ...(segments.length === 0 ? [0] : []), ...bytes];
}

/** A length in front that counts itself (PkgLength, 20.2.4). */
function packaged(body: Bytes): Bytes {
  const total = (own: number): number => body.length + own;
  if (total(1) < 0x40) return [total(1), ...body];
  const own = total(2) < 0x1000 ? 2 : total(3) < 0x10_0000 ? 3 : 4;
  const length = total(own);
  const lead = ((own - 1) << 6) | (length & 0xf);
  return [lead, ...little(length >> 4, own - 1), ...body];
}
