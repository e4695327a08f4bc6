/** What is built, where, and how big; and how to get rid of it. */
import { existsSync, lstatSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { findLab, listLabs, readLab, type FindLabOptions, type Lab } from './find.ts';
import { acquireLock } from './lock.ts';
import { missingPackages } from './packages.ts';
import { cachePaths } from './paths.ts';

/** What the lab keeps on disk, and what it still lacks. */
export interface LabStatus {
  /** The folder that everything is kept in. */
  readonly directory: string;
  /** The kernel that would be used with the same options. */
  readonly current: Lab | undefined;
  /** Finished kernels, newest first. `bytes` is what each takes on disk. */
  readonly kernels: readonly (Lab & { readonly bytes: number })[];
  /** Builds that were begun and not finished; they go on where they were. */
  readonly unfinished: readonly { readonly key: string; readonly bytes: number }[];
  /** Debian packages that are missing for the next step: to run, or to build where nothing is built. */
  readonly missingPackages: readonly string[];
}

/** What there is of the lab. Reads the disk; builds nothing. */
export function labStatus(options: FindLabOptions = {}): LabStatus {
  const paths = cachePaths(options.directory);
  return {
    directory: paths.root,
    current: findLab(options),
    kernels: listLabs(options.directory).map((lab) => ({ ...lab, bytes: bytesBelow(lab.directory) })),
    unfinished: entries(paths.builds).map((key) => ({ key, bytes: bytesBelow(join(paths.builds, key)) })),
    missingPackages: missingPackages(options),
  };
}

/** What to delete. */
export interface CleanLabOptions {
  readonly directory?: string;
  /** The current kernel too. Default false: only what the present source and recipe do not use. */
  readonly all?: boolean;
}

/**
 * Deletes old kernels, unfinished builds and old initramfs files; with `all` everything. A build that is under way is
 * left alone. Gives the bytes freed.
 */
export async function cleanLab({ directory, all = false }: CleanLabOptions = {}): Promise<number> {
  const paths = cachePaths(directory);
  const before = bytesBelow(paths.root);
  const keep = all ? undefined : findLab(directory === undefined ? {} : { directory })?.key;
  for (const key of entries(paths.kernels)) {
    // What has no manifest is not ours to judge by age: it is a leftover either way.
    if (key !== keep || readLab(join(paths.kernels, key)) === undefined) remove(join(paths.kernels, key));
  }
  for (const key of entries(paths.builds)) await removeBuild(join(paths.builds, key), join(paths.locks, key));
  remove(paths.initramfs);
  return before - bytesBelow(paths.root);
}

async function removeBuild(path: string, lockPath: string): Promise<void> {
  try {
    const lock = await acquireLock(lockPath, { signal: AbortSignal.timeout(500) });
    remove(path);
    await lock.release();
  } catch (error) {
    if ((error as Error).name !== 'TimeoutError') throw error;
  }
}

function remove(path: string): void {
  rmSync(path, { recursive: true, force: true });
}

function entries(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory) : [];
}

function bytesBelow(path: string): number {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return 0;
  if (!stat.isDirectory()) return stat.blocks * 512;
  return entries(path).reduce((sum, name) => sum + bytesBelow(join(path, name)), stat.blocks * 512);
}
