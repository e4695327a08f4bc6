/** Values in a line, for the report of a failure. Runs none of their code. */
import { types } from 'node:util';

export function show(value: unknown, depth = 0): string {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'string')
    return value.length > 40 ? `'${value.slice(0, 20)}...' (${value.length})` : `'${value}'`;
  if (typeof value === 'function') return 'a function';
  if (typeof value !== 'object' || value === null) return Object.is(value, -0) ? '-0' : String(value);
  if (types.isProxy(value)) return 'a proxy';
  if (ArrayBuffer.isView(value)) return `${kindOf(value)}(${value.byteLength} of ${kindOf(value.buffer)})`;
  if (Array.isArray(value))
    return depth > 2 ? '[...]' : `[${Array.from(value, (inner) => show(inner, depth + 1)).join(', ')}]`;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return `a ${kindOf(value)}`;
  if (depth > 3) return '{...}';
  const members = Object.entries(Object.getOwnPropertyDescriptors(value));
  return `{ ${members.map(([key, { get, value: inner }]) => `${key}: ${get === undefined ? show(inner, depth + 1) : 'a getter'}`).join(', ')} }`;
}

function kindOf(value: object): string {
  const prototype = Object.getPrototypeOf(value) as { constructor?: { name?: string } } | null;
  return prototype === null ? 'bare object' : (prototype.constructor?.name ?? 'object');
}
