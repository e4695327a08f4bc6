/** Arguments by signature: mostly what the types ask for and this machine has, with one thing or another gone wrong. */
import * as abi from '../../lib/abi/index.ts';
import { affordable } from './guards.ts';
import type { Random } from './random.ts';
import type { Field, Shape, Signatures } from './signatures.ts';
import { anyBigint, anyBytes, anyNumber, anyString, anything, FuzzerError } from './values.ts';
import type { ValueSource } from './values.ts';

/** Handles that fit a name of the signatures: `Vm`, `NativeMapping`, `HostMappingToken`. */
export interface Scenery extends ValueSource {
  byType(name: string): readonly unknown[];
}

const PAGE = 4096;
// How many bytes some calls want: structs, bitmaps, numbers.
const USEFUL_LENGTHS = [8, 8, 8, 64, 24, 64, 104, 144, 312, 1024, 4096, 4096, 8192];
const CAPABILITIES = Object.keys(abi.CAPS);

// With descriptors as numbers, which could be somebody else's, or with a size that takes the kernel's memory: their
// methods are called instead.
const NOT_BY_NUMBER = ['KVM_IRQFD', 'KVM_IOEVENTFD', 'KVM_HYPERV_EVENTFD', 'KVM_SET_MEMORY_ATTRIBUTES'];
const REQUESTS = Object.entries(abi as Record<string, unknown>)
  .filter(
    ([name, value]) =>
      /^KVM_/.test(name) &&
      typeof value === 'number' &&
      ((value >>> 8) & 0xff) === 0xae &&
      !NOT_BY_NUMBER.includes(name),
  )
  .map(([, value]) => value as number);

type Sample = (random: Random) => number;
// What numbers of these names are like. Small, so that calls hit what is there.
const BY_NAME: Readonly<Record<string, Sample>> = {
  slot: (random) => random.below(6),
  id: (random) => random.below(4),
  version: (random) => 1 + random.below(2),
  gpa: (random) => random.below(40) * PAGE,
  address: (random) => random.below(40) * PAGE,
  source: (random) => random.below(40) * PAGE,
  target: (random) => random.below(40) * PAGE,
  size: (random) => (1 + random.below(16)) * PAGE,
  bytes: (random) => PAGE << random.below(5),
  length: (random) => (random.oneIn(2) ? (1 + random.below(8)) * PAGE : random.below(9)),
  offset: (random) => random.below(8) * PAGE,
  guestMemfdOffset: (random) => random.below(4) * PAGE,
  mappingOffset: (random) => random.below(4) * PAGE,
  timeoutMs: (random) => random.below(3),
  hugetlb: (random) => random.pick([0, 0, 0, 12, 21, 30, 63]),
  advice: (random) => random.pick([0, 4, 8, 9, 14, 15, 20, 21, 22, 23, 100]),
  mode: (random) => random.pick([0, 1, 2, 3, 3, 3, 16]),
  fd: (random) => random.pick([-1, 1 << 20, 2 ** 31 - 1]),
  pathOrFd: (random) => random.pick([-1, 1 << 20, 2 ** 31 - 1]),
  gsi: (random) => random.below(26),
  irq: (random) => random.below(26),
  vector: (random) => 16 + random.below(240),
  index: (random) => random.pick([0x10, 0x1b, 0x174, 0x277, 0xc0000080, 0x40000000]),
  numPages: (random) => random.pick([0, 1, 16, 63, 64, 65]),
  count: (random) => random.below(130),
  value: (random) => random.below(260),
};

function elementOf(shape: Shape): Shape {
  return shape.is === 'array' ? shape.of : { is: 'any' };
}

export class Generator {
  readonly #random: Random;
  readonly #signatures: Signatures;
  readonly #scenery: Scenery;

  constructor(random: Random, signatures: Signatures, scenery: Scenery) {
    this.#random = random;
    this.#signatures = signatures;
    this.#scenery = scenery;
  }

  /** One tuple of arguments; of anything at all where there is no signature. */
  arguments(fields: readonly Field[] | undefined): unknown[] {
    const random = this.#random;
    if (fields === undefined || random.oneIn(12)) {
      return Array.from({ length: random.below(5) }, () => anything(random, this.#scenery));
    }
    const given: unknown[] = [];
    // In half of the calls nothing is wrong on this level, so that they get past the checks of arguments.
    const wrong = random.oneIn(2) ? random.below(Math.max(1, fields.length)) : -1;
    for (const [index, field] of fields.entries()) {
      if (field.optional && random.oneIn(3)) break;
      if (index === wrong && random.oneIn(2)) given.push(anything(random, this.#scenery));
      else if (field.rest === true)
        given.push(...Array.from({ length: random.below(4) }, () => this.value(elementOf(field.shape), field.name)));
      else given.push(this.value(field.shape, field.name));
    }
    if (random.oneIn(30)) given.push(anything(random, this.#scenery));
    return given;
  }

  /** For the addon's door to ioctls by number: one that there is, with a struct of its size, or nearly. */
  ioctl(): unknown[] {
    const random = this.#random;
    if (random.oneIn(10)) return [anything(random, this.#scenery), anything(random, this.#scenery)];
    const request = random.oneIn(20) ? 0xae00 + random.below(0x100) : random.pick(REQUESTS);
    const size = (request >>> 16) & 0x3fff;
    if (size === 0 || random.oneIn(15)) {
      return [request, random.pick<unknown>([undefined, anyNumber(random), anyBigint(random), new Uint8Array(64)])];
    }
    const count = random.below(4);
    const bytes = anyBytes(
      random,
      this.#scenery,
      size + (random.oneIn(3) ? count * 48 : 0) + (random.oneIn(10) ? -1 : 0),
    );
    // Counts of structs of variable length, and capabilities, are at the start.
    if (bytes.length >= 8 && random.oneIn(2)) {
      const first = request === abi.KVM_ENABLE_CAP ? random.pick(Object.values(abi.CAPS)) : count;
      new DataView(bytes.buffer, bytes.byteOffset, bytes.length).setUint32(0, first, true);
    }
    return [request, bytes];
  }

  value(shape: Shape, name: string, depth = 0): unknown {
    const random = this.#random;
    if (random.oneIn(25)) return anything(random, this.#scenery, depth);
    switch (shape.is) {
      case 'number':
        return this.#number(name);
      case 'bigint':
        return this.#bigint(name);
      case 'boolean':
        return random.oneIn(2);
      case 'string':
        return anyString(random);
      case 'undefined':
        return undefined;
      case 'null':
        return null;
      case 'literal':
        return shape.value;
      case 'function':
        return random.oneIn(6)
          ? () => {
              throw new FuzzerError('a callback');
            }
          : () => undefined;
      case 'union':
        return this.value(random.pick(shape.of), name, depth);
      case 'array':
        return this.#array(shape.of, name, depth);
      case 'object':
        return this.#object(shape.fields, depth);
      case 'struct':
        return this.#struct(shape.name, depth);
      case 'named':
        return this.#named(shape.name, shape.of, name, depth);
      default:
        return anything(random, this.#scenery, depth);
    }
  }

  #number(name: string): number {
    const random = this.#random;
    const like = BY_NAME[name];
    if (like === undefined) return random.oneIn(3) ? anyNumber(random) : random.below(16);
    if (random.oneIn(10)) return anyNumber(random);
    return like(random) + (random.oneIn(12) ? random.pick([-1, 1, 0.5]) : 0);
  }

  #bigint(name: string): bigint {
    const random = this.#random;
    const like = BY_NAME[name];
    if (like === undefined || name === 'id') return random.oneIn(3) ? anyBigint(random) : BigInt(random.below(16));
    if (random.oneIn(10)) return anyBigint(random);
    return BigInt(like(random)) + (random.oneIn(12) ? random.pick([-1n, 1n]) : 0n);
  }

  #array(of: Shape, name: string, depth: number): unknown {
    const random = this.#random;
    const items = Array.from({ length: random.below(4) }, () => this.value(of, name, depth + 1));
    if (random.oneIn(15)) delete items[0];
    return random.oneIn(20) ? new Proxy(items, {}) : items;
  }

  #object(fields: readonly Field[], depth: number): object {
    const random = this.#random;
    const made: Record<string, unknown> = random.oneIn(30) ? (Object.create(null) as Record<string, unknown>) : {};
    for (const field of fields) {
      if (random.oneIn(field.optional ? 2 : 25)) continue;
      const value = this.value(field.shape, field.name, depth + 1);
      made[field.name] = field.name === 'size' || field.name === 'length' ? affordable(value) : value;
    }
    return this.#spoilt(made, depth);
  }

  /** Now and then with a key too many, a member that is a getter, or behind a proxy. */
  #spoilt(made: Record<string, unknown>, depth: number): object {
    const random = this.#random;
    const keys = Object.keys(made);
    if (random.oneIn(25))
      made[random.pick(['siez', '__proto__x', 'toString', 'gpa', ''])] = anything(random, this.#scenery, depth);
    if (keys.length > 0 && random.oneIn(15)) {
      const key = random.pick(keys);
      const kept = made[key];
      const victim =
        this.#scenery.victims.length > 0 && random.oneIn(2) ? random.pick(this.#scenery.victims) : undefined;
      const get =
        victim === undefined
          ? (): never => {
              throw new FuzzerError('a getter');
            }
          : (): unknown => {
              victim.close();
              return kept;
            };
      Object.defineProperty(made, key, { get, enumerable: true, configurable: true });
    }
    return random.oneIn(30) ? new Proxy(made, {}) : made;
  }

  #struct(name: string, depth: number): unknown {
    const table = (abi as Record<string, unknown>)[name.replace('.entry', '')] as
      { readonly size: number; decode(bytes: Uint8Array): Record<string, unknown> } | undefined;
    if (table === undefined || typeof table.decode !== 'function' || typeof table.size !== 'number') {
      return anything(this.#random, this.#scenery, depth);
    }
    const made = table.decode(new Uint8Array(table.size));
    for (const key of Object.keys(made)) if (this.#random.oneIn(8)) made[key] = this.#like(made[key]);
    return this.#spoilt(made, depth);
  }

  /** A value of the same type, most of the time. */
  #like(value: unknown): unknown {
    const random = this.#random;
    if (random.oneIn(10)) return anything(random, this.#scenery, 3);
    if (typeof value === 'bigint') return anyBigint(random);
    if (typeof value === 'number') return random.below(256);
    if (typeof value === 'boolean') return !value;
    if (value instanceof Uint8Array) return anyBytes(random, this.#scenery, value.length);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, inner]) => [key, random.oneIn(6) ? this.#like(inner) : inner]),
    );
  }

  #named(type: string, of: readonly Shape[], name: string, depth: number): unknown {
    const random = this.#random;
    switch (type) {
      case 'Uint8Array':
        return anyBytes(random, this.#scenery, random.oneIn(5) ? undefined : random.pick(USEFUL_LENGTHS));
      case 'BigInt64Array':
        return new BigInt64Array(1);
      case 'CapName':
        return random.pick(CAPABILITIES);
      case 'AbortSignal':
        return random.oneIn(2) ? AbortSignal.abort(new FuzzerError('aborted')) : new AbortController().signal;
      case 'Array':
      case 'ReadonlyArray':
        return this.#array(of[0] ?? { is: 'any' }, name, depth);
      case 'Input':
      case 'Decoded':
      case 'Encodable':
      case 'Partial':
      case 'Pick':
      case 'Readonly':
      case 'Omit':
        return of.length === 0 ? {} : this.#part(type, this.value(of[0]!, name, depth));
      default:
    }
    const live = this.#scenery.byType(type);
    if (live.length > 0) return random.pick(live);
    const known = this.#signatures.types[type];
    if (known === undefined || depth > 6) return anything(random, this.#scenery, depth);
    if (known.bases.length === 0) return this.value(known.shape, name, depth);
    const fields = this.#fieldsOf(type);
    // An interface over a decoded struct says nothing here.
    return fields.length === 0 ? anything(random, this.#scenery, depth) : this.#object(fields, depth);
  }

  #part(type: string, value: unknown): unknown {
    if (type !== 'Partial' || typeof value !== 'object' || value === null) return value;
    try {
      return Object.fromEntries(Object.entries(value).filter(() => !this.#random.oneIn(2)));
    } catch (error) {
      if (error instanceof FuzzerError || error instanceof TypeError) return value;
      throw error;
    }
  }

  #fieldsOf(type: string): Field[] {
    const known = this.#signatures.types[type];
    if (known === undefined || known.shape.is !== 'object') return [];
    return [...known.bases.flatMap((base) => this.#fieldsOf(base)), ...known.shape.fields];
  }
}
