/**
 * What even a fuzzer may not do: take the host's memory, or wait for ever for a guest that does not stop. Everything
 * else goes to the kernel as it is.
 */
import { types } from 'node:util';

const MIB16 = 2 ** 24;
// No file can be as long; a memfd of any length below that would take pages until there are none.
const ABSURD = 2 ** 63;
const SMALL = 65_536;
/** What sets how much memory there is to touch, allocate or set attributes of. */
const SIZED = /^(mapAnonymous|mapFile|createGuestMemfd|ftruncate|fallocate|fallocateAsync|anonymous|memfd|add|map)$/;
const ATTRIBUTES = /^setMemoryAttributes/;
const RUNS = /^runSync$/;
const TIMEOUT_MS = 2;

/** A size that the host can afford, or one that it refuses to look at. */
export function affordable(value: unknown): unknown {
  if (typeof value === 'number') return value > MIB16 && value < ABSURD ? SMALL : value;
  if (typeof value === 'bigint') return value > BigInt(MIB16) && value < BigInt(ABSURD) ? BigInt(SMALL) : value;
  return value;
}

/** The arguments as they may be given. */
export function guard(method: string, given: readonly unknown[]): unknown[] {
  if (RUNS.test(method)) return [bounded(given[0]), ...given.slice(1)];
  if (SIZED.test(method)) return given.map(affordable);
  if (ATTRIBUTES.test(method)) return given.map(boundedAttributes);
  return [...given];
}

/** A run that ends: with a time-out, or with an error because of something else. */
function bounded(timeout: unknown): unknown {
  if (timeout === undefined) return { timeoutMs: TIMEOUT_MS };
  if (typeof timeout === 'number') return timeout < 0 || timeout > TIMEOUT_MS ? TIMEOUT_MS : timeout;
  if (types.isProxy(timeout) || typeof timeout !== 'object' || timeout === null)
    return timeout === null ? null : { timeoutMs: 0 };
  const own = Object.getOwnPropertyDescriptor(timeout, 'timeoutMs');
  const value: unknown = own?.value;
  const ends = typeof value === 'number' ? value <= TIMEOUT_MS || Number.isNaN(value) : value !== undefined;
  return ends ? timeout : { ...withoutGetters(timeout), timeoutMs: TIMEOUT_MS };
}

/** Attributes cost the kernel an entry for each page: never of more than some megabytes. */
function boundedAttributes(value: unknown): unknown {
  if (typeof value === 'number') return value > MIB16 ? SMALL : value;
  if (typeof value === 'bigint') return value > BigInt(MIB16) && value < 1n << 64n ? BigInt(SMALL) : value;
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  if (types.isProxy(value)) return {};
  const plain = withoutGetters(value);
  return Object.fromEntries(Object.entries(plain).map(([key, inner]) => [key, boundedAttributes(inner)]));
}

function withoutGetters(value: object): object {
  return Object.fromEntries(
    Object.entries(Object.getOwnPropertyDescriptors(value))
      .filter(([, { get, enumerable }]) => get === undefined && enumerable === true)
      .map(([key, descriptor]) => [key, descriptor.value as unknown]),
  );
}
