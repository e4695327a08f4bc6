/** virtio-blk (virtio 1.2, 5.2). */
import type { DescriptorChain } from '../virtio/chain.ts';
import { copyInto, copyOf, fieldsOf, viewsFrom } from '../virtio/chain.ts';
import { VirtioDevice } from '../virtio/device.ts';
import { VirtioError } from '../virtio/error.ts';
import type { Virtqueue } from '../virtio/queue.ts';
import type { BlockBackend } from './backend.ts';
import { SECTOR } from './backend.ts';

const FEATURE_SEG_MAX = 1n << 2n;
const FEATURE_READ_ONLY = 1n << 5n;
const FEATURE_BLOCK_SIZE = 1n << 6n;
const FEATURE_FLUSH = 1n << 9n;
const FEATURE_DISCARD = 1n << 13n;
const FEATURE_WRITE_ZEROES = 1n << 14n;

const READ = 0;
const WRITE = 1;
const FLUSH = 4;
const GET_ID = 8;
const DISCARD = 11;
const WRITE_ZEROES = 13;

const OK = 0;
const IO_ERROR = 1;
const UNSUPPORTED = 2;

const HEADER_SIZE = 16;
const RANGE_SIZE = 16;
const ID_SIZE = 20;
const QUEUE_SIZE = 256;
const MAX_SEGMENTS = QUEUE_SIZE - 2;
const MAX_RANGES = 32;
const MAX_RANGE_SECTORS = 2 ** 22;

export interface VirtioBlockOptions {
  /** What the guest reads as the disk's serial: at most 20 bytes. Default: `node-kvm`. */
  readonly serial?: string;
  /** The backend failed: the guest gets an I/O error, and whoever listens the reason. */
  readonly onError?: (error: unknown) => void;
}

export class VirtioBlock extends VirtioDevice {
  readonly name = 'virtio-blk';
  readonly id = 2;
  readonly features: bigint;
  readonly queueSizes = [QUEUE_SIZE];
  readonly backend: BlockBackend;
  readonly #serial: Uint8Array;
  readonly #onError: ((error: unknown) => void) | undefined;
  // Each life of the driver has its own: what finishes after a reset must not be given back.
  #generation = 0;

  constructor(backend: BlockBackend, { serial = 'node-kvm', onError }: VirtioBlockOptions = {}) {
    super();
    this.backend = backend;
    this.#serial = Buffer.from(serial).subarray(0, ID_SIZE);
    this.#onError = onError;
    const changes = backend.readOnly ? FEATURE_READ_ONLY : FEATURE_DISCARD | FEATURE_WRITE_ZEROES;
    this.features = FEATURE_SEG_MAX | FEATURE_BLOCK_SIZE | FEATURE_FLUSH | changes;
  }

  config(): Uint8Array {
    const bytes = new Uint8Array(60);
    const view = fieldsOf(bytes);
    view.setBigUint64(0, BigInt(this.backend.size / SECTOR), true);
    view.setUint32(12, MAX_SEGMENTS, true);
    view.setUint32(20, SECTOR, true);
    view.setUint16(34, 1, true); // queues
    if (!this.backend.readOnly) {
      view.setUint32(36, MAX_RANGE_SECTORS, true);
      view.setUint32(40, MAX_RANGES, true);
      view.setUint32(44, 1, true); // alignment of a discard, in sectors
      view.setUint32(48, MAX_RANGE_SECTORS, true);
      view.setUint32(52, MAX_RANGES, true);
      view.setUint8(56, 1); // zeros may become a hole
    }
    return bytes;
  }

  protected override deactivated(): void {
    this.#generation++;
  }

  protected handle(_index: number, queue: Virtqueue): void {
    queue.quiet();
    do {
      for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) this.#start(queue, chain);
    } while (!queue.drained());
  }

  #start(queue: Virtqueue, chain: DescriptorChain): void {
    if (chain.readableSize < HEADER_SIZE || chain.writableSize < 1)
      throw new VirtioError('a block request without a header or a place for its status');
    const header = fieldsOf(copyOf(chain.readable, HEADER_SIZE));
    const type = header.getUint32(0, true);
    const sector = header.getBigUint64(8, true);
    const generation = this.#generation;
    this.#perform(chain, type, sector).then(
      (written) => this.#finish(queue, chain, generation, OK, written),
      (error: unknown) => {
        if (!(error instanceof Refusal)) this.#onError?.(error);
        this.#finish(queue, chain, generation, error instanceof Refusal ? error.status : IO_ERROR, 0);
      },
    );
  }

  /** @returns bytes written to the guest, without the status */
  async #perform(chain: DescriptorChain, type: number, sector: bigint): Promise<number> {
    const data = {
      in: viewsUntil(chain.writable, chain.writableSize - 1),
      out: viewsFrom(chain.readable, HEADER_SIZE),
    };
    switch (type) {
      case READ: {
        const length = chain.writableSize - 1;
        await this.backend.read(this.#offset(sector, length), data.in);
        return length;
      }
      case WRITE:
        this.#needWritable();
        await this.backend.write(this.#offset(sector, chain.readableSize - HEADER_SIZE), data.out);
        return 0;
      case FLUSH:
        await this.backend.flush();
        return 0;
      case GET_ID: {
        const id = new Uint8Array(ID_SIZE);
        id.set(this.#serial);
        return copyInto(data.in, id);
      }
      case DISCARD:
      case WRITE_ZEROES:
        this.#needWritable();
        await this.#ranges(
          type,
          copyOf(data.out, Math.min(chain.readableSize - HEADER_SIZE, RANGE_SIZE * (MAX_RANGES + 1))),
        );
        return 0;
      default:
        throw new Refusal(UNSUPPORTED);
    }
  }

  async #ranges(type: number, bytes: Uint8Array): Promise<void> {
    if (bytes.byteLength === 0 || bytes.byteLength % RANGE_SIZE !== 0 || bytes.byteLength > RANGE_SIZE * MAX_RANGES)
      throw new Refusal(IO_ERROR);
    const view = fieldsOf(bytes);
    for (let at = 0; at < bytes.byteLength; at += RANGE_SIZE) {
      const sectors = view.getUint32(at + 8, true);
      const flags = view.getUint32(at + 12, true);
      // Bit 0 is unmap, which only means something for zeros.
      if ((flags & ~1) !== 0 || (type === DISCARD && flags !== 0)) throw new Refusal(UNSUPPORTED);
      if (sectors > MAX_RANGE_SECTORS) throw new Refusal(IO_ERROR);
      const offset = this.#offset(view.getBigUint64(at, true), sectors * SECTOR);
      if (sectors === 0) continue;
      if (type === DISCARD) await this.backend.discard(offset, sectors * SECTOR);
      else await this.backend.writeZeroes(offset, sectors * SECTOR);
    }
  }

  #offset(sector: bigint, length: number): number {
    if (length % SECTOR !== 0 || sector * BigInt(SECTOR) + BigInt(length) > BigInt(this.backend.size))
      throw new Refusal(IO_ERROR);
    return Number(sector) * SECTOR;
  }

  #needWritable(): void {
    if (this.backend.readOnly) throw new Refusal(IO_ERROR);
  }

  #finish(queue: Virtqueue, chain: DescriptorChain, generation: number, status: number, written: number): void {
    if (generation !== this.#generation) return;
    const last = chain.writable.at(-1)!;
    last[last.byteLength - 1] = status;
    this.guard(() => {
      queue.push(chain, written + 1);
      this.host?.signal(queue);
    });
  }
}

/** A request that is answered with a status and is no fault of the backend's. */
class Refusal extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`status ${status}`);
    this.status = status;
  }
}

/** The first `length` bytes of some views, as views. */
function viewsUntil(views: readonly Uint8Array[], length: number): Uint8Array[] {
  const kept: Uint8Array[] = [];
  let room = length;
  for (const view of views) {
    if (room === 0) break;
    kept.push(view.byteLength <= room ? view : view.subarray(0, room));
    room -= Math.min(view.byteLength, room);
  }
  return kept;
}
