/** What is behind a disk. Offsets and lengths are bytes; each call works on whole sectors of 512. */

export interface BlockBackend {
  /** In bytes, a multiple of 512. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Fills the views, in order. */
  read(offset: number, views: readonly Uint8Array[]): Promise<void>;
  /** Writes what is in the views, in order. */
  write(offset: number, views: readonly Uint8Array[]): Promise<void>;
  /** Returns once everything written before is on stable storage. */
  flush(): Promise<void>;
  /** The content of the range is of no more use; it may read as anything. */
  discard(offset: number, length: number): Promise<void>;
  /** The range reads as zeros from now on. */
  writeZeroes(offset: number, length: number): Promise<void>;
  close(): Promise<void>;
}

export const SECTOR = 512;
