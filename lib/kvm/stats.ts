/** Binary statistics of a VM or a vCPU, as the kernel describes them itself. *KVM_GET_STATS_FD* */
import {
  KVM_STATS_BASE_MASK,
  KVM_STATS_BASE_POW2,
  KVM_STATS_TYPE_MASK,
  KVM_STATS_UNIT_MASK,
  KVM_STATS_UNIT_SHIFT,
  kvmStatsDesc,
  kvmStatsHeader,
} from '../abi/index.ts';
import { KvmError } from '../errors.ts';
import type { NativeFile, NativeReadable } from '../native.ts';
import { Handle } from './handle.ts';

/** How a statistic behaves (KVM_STATS_TYPE_*). */
export type StatType = 'cumulative' | 'instant' | 'peak' | 'linear-histogram' | 'log-histogram' | 'unknown';
/** What a statistic is counted in (KVM_STATS_UNIT_*). */
export type StatUnit = 'none' | 'bytes' | 'seconds' | 'cycles' | 'boolean' | 'unknown';

/** What one statistic is. Its value times `base` to the power `exponent` is in `unit`. */
export interface StatDescriptor {
  readonly name: string;
  readonly type: StatType;
  readonly unit: StatUnit;
  readonly base: 2 | 10;
  readonly exponent: number;
  /** How many values: 1, or the number of buckets of a histogram. */
  readonly count: number;
  /** The width of a bucket of a linear histogram; 0 for the others. */
  readonly bucketSize: number;
}

/** Values by name: one bigint, or one for each bucket of a histogram. */
export type StatValues = Record<string, bigint | bigint[]>;

const TYPES: readonly StatType[] = ['cumulative', 'instant', 'peak', 'linear-histogram', 'log-histogram'];
const UNITS: readonly StatUnit[] = ['none', 'bytes', 'seconds', 'cycles', 'boolean'];

interface Entry {
  readonly descriptor: StatDescriptor;
  /** In bytes, in the data block. */
  readonly offset: number;
}

/**
 * The statistics of one VM or vCPU. Which there are depends on the kernel; the descriptors are read once, when this is
 * made. Reading values neither stops the vCPU nor waits for it. Closed with its VM or vCPU.
 */
export class Stats extends Handle<NativeReadable> {
  /** What the kernel calls the object, `kvm-1234` or `kvm-1234/vcpu-0`: process id and, for a vCPU, its id. */
  readonly id: string;
  /** In the kernel's order. */
  readonly descriptors: readonly StatDescriptor[];
  readonly #entries: readonly Entry[];
  readonly #dataOffset: number;
  readonly #data: Uint8Array;

  /** @internal */
  constructor(native: NativeReadable, parent: Handle<NativeFile>) {
    super('statistics', native, parent);
    try {
      const header = kvmStatsHeader.decode(this.#block(0, kvmStatsHeader.size));
      this.id = text(this.#block(header.idOffset, header.nameSize));
      const stride = kvmStatsDesc.size + header.nameSize;
      const table = this.#block(header.descOffset, header.numDesc * stride);
      this.#entries = Array.from({ length: header.numDesc }, (_, index) => entry(table, index * stride, stride));
      this.descriptors = this.#entries.map(({ descriptor }) => descriptor);
      this.#dataOffset = header.dataOffset;
      const ends = this.#entries.map(({ descriptor, offset }) => offset + descriptor.count * 8);
      this.#data = new Uint8Array(Math.max(0, ...ends));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /**
   * All values as they are now, by name. They are read while the guest may run, so two of them need not be of the same
   * moment.
   *
   * @throws KvmStateError once closed.
   */
  read(): StatValues {
    this.#fill(this.#dataOffset, this.#data);
    const view = new DataView(this.#data.buffer);
    const values: StatValues = {};
    for (const { descriptor, offset } of this.#entries) {
      const all = Array.from({ length: descriptor.count }, (_, at) => view.getBigUint64(offset + at * 8, true));
      values[descriptor.name] = descriptor.count === 1 ? all[0]! : all;
    }
    return values;
  }

  #block(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.#fill(offset, bytes);
    return bytes;
  }

  #fill(offset: number, into: Uint8Array): void {
    const read = this.check(() => this.native.read(offset, into), { message: 'Reading statistics' });
    if (read !== into.byteLength) {
      throw new KvmError(
        `The statistics end after ${offset + read} bytes, ${offset + into.byteLength} are described`,
        'ERR_KVM_UNEXPECTED',
      );
    }
  }
}

function entry(table: Uint8Array, at: number, stride: number): Entry {
  const { flags, exponent, size, offset, bucketSize } = kvmStatsDesc.decode(table, at);
  return {
    offset,
    descriptor: Object.freeze({
      name: text(table.subarray(at + kvmStatsDesc.size, at + stride)),
      type: TYPES[flags & KVM_STATS_TYPE_MASK] ?? 'unknown',
      unit: UNITS[(flags & KVM_STATS_UNIT_MASK) >> KVM_STATS_UNIT_SHIFT] ?? 'unknown',
      base: (flags & KVM_STATS_BASE_MASK) === KVM_STATS_BASE_POW2 ? 2 : 10,
      exponent,
      count: size,
      bucketSize,
    }),
  };
}

/** A name, up to its first zero byte. */
function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('latin1');
}
