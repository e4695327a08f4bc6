/** Values that no type checker lets through, and those that it does and should not be taken either. */
import type { Random } from './random.ts';

/** What the fuzzer's own getters, traps and callbacks throw: the one error that need not be ours. */
export class FuzzerError extends Error {}

/** A place where handles come from and side effects go. */
export interface ValueSource {
  /** Handles of every kind: open, closed, of another VM, natives and what only inherits from a class. */
  readonly handles: readonly unknown[];
  /** Closed by getters and conversions that have side effects. */
  readonly victims: readonly { close(): void }[];
  /** Arrays over guest memory and kvm_run. */
  readonly views: readonly Uint8Array[];
}

const NUMBERS = [
  0,
  1,
  2,
  3,
  4,
  7,
  8,
  9,
  16,
  31,
  32,
  63,
  64,
  65,
  100,
  255,
  256,
  4095,
  4096,
  4097,
  8192,
  0x10000,
  0xffff,
  2 ** 20,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 52,
  2 ** 53 - 1,
  2 ** 53,
  2 ** 63,
  2 ** 64,
  -1,
  -0,
  -4096,
  -(2 ** 31),
  -(2 ** 53),
  0.5,
  1.5,
  4096.5,
  Number.NaN,
  Infinity,
  -Infinity,
  Number.MIN_VALUE,
  Number.MAX_VALUE,
];
const BIGINTS = [
  0n,
  1n,
  2n,
  3n,
  4n,
  7n,
  8n,
  0x40n,
  0xfffn,
  0x1000n,
  0x1001n,
  0x2000n,
  0x10000n,
  0x100000n,
  0xffff_ffffn,
  1n << 32n,
  (1n << 52n) - 4096n,
  1n << 52n,
  1n << 53n,
  (1n << 63n) - 4096n,
  1n << 63n,
  (1n << 64n) - 4096n,
  (1n << 64n) - 1n,
  1n << 64n,
  1n << 200n,
  -1n,
  -4096n,
  -(1n << 63n),
];
// Nothing here names a file that matters, or one that blocks when opened.
const STRINGS = [
  '',
  'x',
  'default',
  'private',
  'shared',
  'both',
  'none',
  'io',
  '__proto__',
  'toString',
  'constructor',
  'length',
  'valueOf',
  '/dev/null',
  '/dev/kvm',
  '/proc/self/nothing',
  'a\0b',
  '\ud800',
  'KVM_CAP_MAX_VCPUS',
  'KVM_CAP_NOTHING',
  '4096',
  '0x1000',
  '\u{1f4a5}'.repeat(40),
  'node-kvm:vcpu',
];
const LENGTHS = [
  0, 1, 4, 7, 8, 12, 16, 24, 40, 63, 64, 104, 128, 144, 312, 512, 1023, 1024, 4095, 4096, 4097, 65_536, 65_537,
];

export function anyNumber(random: Random): number {
  return random.pick(NUMBERS);
}

export function anyBigint(random: Random): bigint {
  return random.pick(BIGINTS);
}

export function anyString(random: Random): string {
  return random.oneIn(200) ? 'huge'.repeat(2 ** 18) : random.pick(STRINGS);
}

/** A Uint8Array of many kinds; `length` where one is wanted. */
export function anyBytes(random: Random, source: ValueSource, wanted?: number): Uint8Array {
  const length = wanted ?? random.pick(LENGTHS);
  switch (random.below(12)) {
    case 0:
      return Buffer.alloc(length, random.below(256));
    case 1:
      return new Uint8Array(length + 3).subarray(3);
    case 2:
      return new Uint8Array(new SharedArrayBuffer(length));
    case 3:
      return new Uint8Array(resizable(ArrayBuffer, length));
    case 4:
      return new Uint8Array(resizable(SharedArrayBuffer, length));
    case 5:
      return detached(length);
    case 6:
      return outOfBounds(length);
    case 7:
      return source.views.length === 0 ? new Uint8Array(length) : random.pick(source.views);
    default: {
      const bytes = new Uint8Array(length);
      for (let at = 0; at < Math.min(length, 64); at++) bytes[at] = random.oneIn(3) ? random.below(256) : 0;
      return bytes;
    }
  }
}

// Newer than the library types of this project.
function resizable(kind: typeof ArrayBuffer | typeof SharedArrayBuffer, length: number): ArrayBufferLike {
  type Resizable = new (length: number, options: { maxByteLength: number }) => ArrayBufferLike;
  return new (kind as unknown as Resizable)(length, { maxByteLength: length + 4096 });
}

function detached(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  return bytes;
}

/** Of a buffer that became shorter than the view. */
function outOfBounds(length: number): Uint8Array {
  const buffer = resizable(ArrayBuffer, length + 8) as ArrayBuffer & { resize(length: number): void };
  const bytes = new Uint8Array(buffer, 8, length);
  buffer.resize(4);
  return bytes;
}

/** A value of whatever type. */
export function anything(random: Random, source: ValueSource, depth = 0): unknown {
  switch (random.below(depth > 2 ? 8 : 14)) {
    case 0:
      return random.pick([undefined, null, true, false]);
    case 1:
      return anyNumber(random);
    case 2:
      return anyBigint(random);
    case 3:
      return anyString(random);
    case 4:
      return anyBytes(random, source);
    case 5:
    case 6:
      return source.handles.length === 0 ? {} : random.pick(source.handles);
    case 7:
      return otherArray(random);
    case 8:
      return array(random, source, depth);
    case 9:
      return callable(random);
    case 10:
      return sideEffect(random, source);
    case 11:
      return proxied(random, source);
    default:
      return odd(random);
  }
}

/** Views and buffers that are no Uint8Array. */
function otherArray(random: Random): unknown {
  const length = random.pick(LENGTHS) * 8;
  switch (random.below(7)) {
    case 0:
      return new Uint16Array(length / 2);
    case 1:
      return new Float64Array(length / 8);
    case 2:
      return new BigInt64Array(length / 8);
    case 3:
      return new Uint8ClampedArray(length);
    case 4:
      return new DataView(new ArrayBuffer(length));
    case 5:
      return new ArrayBuffer(length);
    default:
      return new SharedArrayBuffer(length);
  }
}

function array(random: Random, source: ValueSource, depth: number): unknown[] {
  switch (random.below(4)) {
    case 0:
      return [];
    // Sparse.
    case 1:
      return Object.assign(new Array(5) as unknown[], { 3: anything(random, source, depth + 1) });
    default:
      return Array.from({ length: random.below(4) }, () => anything(random, source, depth + 1));
  }
}

function callable(random: Random): unknown {
  switch (random.below(4)) {
    case 0:
      return () => {
        throw new FuzzerError('a callback');
      };
    case 1:
      return async () => undefined;
    case 2:
      return Symbol('fuzz');
    default:
      return () => undefined;
  }
}

/** What closes a handle, or throws, when somebody turns it into a number or a string or asks for a member. */
function sideEffect(random: Random, source: ValueSource): unknown {
  const act =
    random.oneIn(2) || source.victims.length === 0
      ? (): never => {
          throw new FuzzerError('a conversion');
        }
      : (): number => {
          random.pick(source.victims).close();
          return 4096;
        };
  return {
    valueOf: act,
    toString: act,
    [Symbol.toPrimitive]: act,
    then: undefined,
    get length() {
      return act();
    },
    get gpa() {
      return act();
    },
    get size() {
      return act();
    },
    get buffer() {
      return act();
    },
  };
}

function proxied(random: Random, source: ValueSource): unknown {
  const target = (source.handles.length === 0 || random.oneIn(2) ? {} : random.pick(source.handles)) as object;
  switch (random.below(4)) {
    case 0: {
      const { proxy, revoke } = Proxy.revocable({}, {});
      revoke();
      return proxy;
    }
    case 1:
      return new Proxy([1, 2, 3], {});
    case 2: {
      const trap = (): never => {
        throw new FuzzerError('a trap');
      };
      return new Proxy({}, { get: trap, has: trap, ownKeys: trap, getPrototypeOf: trap });
    }
    default:
      return typeof target === 'object' && target !== null ? new Proxy(target, {}) : {};
  }
}

function odd(random: Random): unknown {
  switch (random.below(8)) {
    case 0:
      return {};
    case 1:
      return Object.create(null);
    case 2:
      return new Map([['gpa', 0n]]);
    case 3:
      return new Date(0);
    case 4:
      return Object(random.oneIn(2) ? 4096 : 4096n);
    case 5:
      return Object.create(Uint8Array.prototype);
    case 6:
      return { length: 2 ** 32, 0: 1 };
    default:
      return new Error('a value');
  }
}
