/** A disk whose writes go elsewhere: copy on write, by clusters, into a file that is gone with the overlay. */
import { open, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlockBackend } from './backend.ts';

const CLUSTER = 65536;

/** Everything written is in a sparse, unlinked file; the base is only read. */
export class OverlayBackend implements BlockBackend {
  readonly readOnly = false;
  readonly #base: BlockBackend;
  readonly #file: FileHandle;
  /** One bit per cluster that the overlay has. */
  readonly #present: Uint8Array;
  // Writes to one cluster wait for each other, or a copy of the base would go over a newer write.
  readonly #busy = new Map<number, Promise<unknown>>();

  private constructor(base: BlockBackend, file: FileHandle) {
    this.#base = base;
    this.#file = file;
    this.#present = new Uint8Array(Math.ceil(base.size / CLUSTER / 8));
  }

  /** @param directory where the file lies while it is made. Default: the system's for temporary files */
  static async over(base: BlockBackend, directory = tmpdir()): Promise<OverlayBackend> {
    const path = join(directory, `node-kvm-overlay-${randomBytes(8).toString('hex')}`);
    const file = await open(path, 'wx+', 0o600);
    await unlink(path);
    return new OverlayBackend(base, file);
  }

  get size(): number {
    return this.#base.size;
  }

  /** Bytes of the disk that the overlay holds. */
  get changedBytes(): number {
    let clusters = 0;
    for (const byte of this.#present) for (let bits = byte; bits !== 0; bits &= bits - 1) clusters++;
    return clusters * CLUSTER;
  }

  async read(offset: number, views: readonly Uint8Array[]): Promise<void> {
    await Promise.all(
      this.#pieces(offset, views).map(async ({ cluster, at, view }) => {
        await this.#busy.get(cluster);
        if (this.#has(cluster)) await readFully(this.#file, view, at);
        else await this.#base.read(at, [view]);
      }),
    );
  }

  async write(offset: number, views: readonly Uint8Array[]): Promise<void> {
    await Promise.all(
      this.#pieces(offset, views).map(({ cluster, at, view }) =>
        this.#alone(cluster, async () => {
          if (!this.#has(cluster)) await this.#copyUp(cluster, view.byteLength === this.#clusterSize(cluster));
          await writeFully(this.#file, view, at);
        }),
      ),
    );
  }

  async flush(): Promise<void> {
    // It is gone with the process, so nothing is gained by waiting for a disk.
  }

  async discard(): Promise<void> {}

  async writeZeroes(offset: number, length: number): Promise<void> {
    const zeros = new Uint8Array(Math.min(length, CLUSTER));
    for (let at = 0; at < length; at += CLUSTER)
      await this.write(offset + at, [zeros.subarray(0, Math.min(CLUSTER, length - at))]);
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#busy.values());
    await this.#file.close();
    await this.#base.close();
  }

  #has(cluster: number): boolean {
    return (this.#present[cluster >> 3]! & (1 << (cluster & 7))) !== 0;
  }

  #clusterSize(cluster: number): number {
    return Math.min(CLUSTER, this.size - cluster * CLUSTER);
  }

  async #copyUp(cluster: number, whole: boolean): Promise<void> {
    if (!whole) {
      const bytes = new Uint8Array(this.#clusterSize(cluster));
      await this.#base.read(cluster * CLUSTER, [bytes]);
      await writeFully(this.#file, bytes, cluster * CLUSTER);
    }
    this.#present[cluster >> 3]! |= 1 << (cluster & 7);
  }

  async #alone(cluster: number, work: () => Promise<void>): Promise<void> {
    const before = this.#busy.get(cluster);
    const mine = (before ?? Promise.resolve()).then(work);
    const quiet = mine.catch(() => {});
    this.#busy.set(cluster, quiet);
    try {
      await mine;
    } finally {
      if (this.#busy.get(cluster) === quiet) this.#busy.delete(cluster);
    }
  }

  /** The views cut at the borders of clusters. */
  #pieces(offset: number, views: readonly Uint8Array[]): { cluster: number; at: number; view: Uint8Array }[] {
    const pieces: { cluster: number; at: number; view: Uint8Array }[] = [];
    let at = offset;
    for (const view of views) {
      for (let start = 0; start < view.byteLength;) {
        const cluster = Math.floor(at / CLUSTER);
        const length = Math.min(view.byteLength - start, (cluster + 1) * CLUSTER - at);
        pieces.push({ cluster, at, view: view.subarray(start, start + length) });
        start += length;
        at += length;
      }
    }
    return pieces;
  }
}

async function readFully(file: FileHandle, view: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < view.byteLength;) {
    const { bytesRead } = await file.read(view, done, view.byteLength - done, offset + done);
    if (bytesRead === 0) {
      view.fill(0, done);
      return;
    }
    done += bytesRead;
  }
}

async function writeFully(file: FileHandle, view: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < view.byteLength;)
    done += (await file.write(view, done, view.byteLength - done, offset + done)).bytesWritten;
}
