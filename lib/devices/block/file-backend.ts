/** A disk in a raw file or block device. */
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { KvmError } from '../../errors.ts';
import type { BlockBackend } from './backend.ts';
import { SECTOR } from './backend.ts';

export interface FileBackendOptions {
  /** Default: false. */
  readonly readOnly?: boolean;
  /**
   * How to make a hole, on a file that can have one (fallocate with FALLOC_FL_PUNCH_HOLE). Without it, discarding does
   * nothing and zeros are written.
   */
  readonly punchHole?: (fd: number, offset: number, length: number) => void;
}

/** Zeros are written this many bytes at a time. */
const ZEROS = new Uint8Array(1 << 20);

export class FileBackend implements BlockBackend {
  readonly size: number;
  readonly readOnly: boolean;
  readonly #file: FileHandle;
  readonly #punchHole: FileBackendOptions['punchHole'];

  private constructor(file: FileHandle, size: number, { readOnly = false, punchHole }: FileBackendOptions) {
    this.#file = file;
    this.size = size;
    this.readOnly = readOnly;
    this.#punchHole = punchHole;
  }

  /**
   * @throws the error of `open`, and KvmError `ERR_KVM_DISK` for what is neither a file nor a block device, or whose
   * size is no multiple of 512 bytes.
   */
  static async open(path: string, options: FileBackendOptions = {}): Promise<FileBackend> {
    const file = await open(path, options.readOnly === true ? 'r' : 'r+');
    try {
      const stat = await file.stat();
      if (!stat.isFile() && !stat.isBlockDevice())
        throw new KvmError(`${path} is neither a file nor a block device`, 'ERR_KVM_DISK');
      const size = stat.isFile() ? stat.size : await blockDeviceSize(file);
      if (size === 0 || size % SECTOR !== 0)
        throw new KvmError(
          `${path} has ${size} bytes, which is no whole number of sectors of ${SECTOR}`,
          'ERR_KVM_DISK',
        );
      return new FileBackend(file, size, options);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async read(offset: number, views: readonly Uint8Array[]): Promise<void> {
    const { bytesRead } = await this.#file.readv(views as Uint8Array[], offset);
    // The file became shorter under us, or the system stopped half way: the rest one by one, then zeros.
    const wanted = total(views);
    if (bytesRead < wanted) await this.#readRest(offset, views, bytesRead);
  }

  async write(offset: number, views: readonly Uint8Array[]): Promise<void> {
    const { bytesWritten } = await this.#file.writev(views as Uint8Array[], offset);
    // The system may stop half way: the rest view by view.
    let at = offset;
    for (const view of views) {
      let done = Math.max(0, Math.min(view.byteLength, offset + bytesWritten - at));
      while (done < view.byteLength)
        done += (await this.#file.write(view, done, view.byteLength - done, at + done)).bytesWritten;
      at += view.byteLength;
    }
  }

  async flush(): Promise<void> {
    await this.#file.datasync();
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#tryPunch(offset, length);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    if (this.#tryPunch(offset, length)) return;
    for (let at = 0; at < length; at += ZEROS.byteLength) {
      await this.write(offset + at, [ZEROS.subarray(0, Math.min(ZEROS.byteLength, length - at))]);
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #readRest(offset: number, views: readonly Uint8Array[], done: number): Promise<void> {
    let at = offset;
    for (const view of views) {
      let filled = Math.max(0, Math.min(view.byteLength, offset + done - at));
      while (filled < view.byteLength) {
        const { bytesRead } = await this.#file.read(view, filled, view.byteLength - filled, at + filled);
        if (bytesRead === 0) {
          view.fill(0, filled);
          break;
        }
        filled += bytesRead;
      }
      at += view.byteLength;
    }
  }

  #tryPunch(offset: number, length: number): boolean {
    if (this.#punchHole === undefined) return false;
    try {
      this.#punchHole(this.#file.fd, offset, length);
      return true;
    } catch {
      return false; // a file system without holes
    }
  }
}

/** A block device's stat has no size: its end is found by reading, since reads past it give nothing. */
async function blockDeviceSize(file: FileHandle): Promise<number> {
  const probe = new Uint8Array(SECTOR);
  const readable = async (sector: number): Promise<boolean> =>
    (await file.read(probe, 0, SECTOR, sector * SECTOR)).bytesRead === SECTOR;
  let high = 1;
  while (high < 2 ** 40 && (await readable(high - 1))) high *= 2;
  let low = Math.floor(high / 2);
  while (low < high) {
    const middle = low + Math.floor((high - low) / 2);
    if (await readable(middle)) low = middle + 1;
    else high = middle;
  }
  return low * SECTOR;
}

function total(views: readonly Uint8Array[]): number {
  return views.reduce((sum, view) => sum + view.byteLength, 0);
}
