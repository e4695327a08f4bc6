/** Finished lab kernels: a folder each, complete because it was renamed into place as the last step. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { rangeError } from '../arguments.ts';
import { cachePaths } from './paths.ts';
import type { LabCpu } from './qemu.ts';
import { kernelKey, kernelSource } from './source.ts';

/** Which of the kernels that were built, and where to look. */
export interface FindLabOptions {
  /** A kernel source tree or tarball. Default: the newest linux-source of Debian in /usr/src. */
  readonly kernelSource?: string;
  /** A version already built, by its key or an unambiguous beginning of it or of its kernel release. */
  readonly version?: string;
  /** Where kernels are kept. Default: `$NODE_KVM_LAB_DIR`, or node-kvm/lab in the user's cache directory. */
  readonly directory?: string;
}

/** What is written beside a finished kernel. */
export interface LabManifest {
  readonly key: string;
  /** `6.12.57`, say. */
  readonly kernelRelease: string;
  /** Path of the source that it was built from. */
  readonly source: string;
  /** ISO 8601. */
  readonly builtAt: string;
  readonly buildSeconds: number;
  /** Lines that make printed; the next build's progress is measured by it. */
  readonly makeLines: number;
}

export interface Lab extends LabManifest {
  readonly cpu: LabCpu;
  readonly directory: string;
  /** The bzImage. */
  readonly kernel: string;
  /** The same kernel as an ELF file, with a PVH entry. */
  readonly vmlinux: string;
  /** The config that it was built with. */
  readonly config: string;
  /** The kernel's exported headers; `include` holds linux/kvm.h. */
  readonly headers: string;
}

export const MANIFEST = 'lab.json';

/** Every finished kernel, newest first. */
export function listLabs(root?: string): Lab[] {
  const { kernels } = cachePaths(root);
  if (!existsSync(kernels)) return [];
  const labs = readdirSync(kernels).flatMap((name) => readLab(join(kernels, name)) ?? []);
  return labs.sort((a, b) => (a.builtAt < b.builtAt ? 1 : -1));
}

export function readLab(directory: string): Lab | undefined {
  const path = join(directory, MANIFEST);
  if (!existsSync(path)) return undefined;
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as LabManifest;
  return {
    ...manifest, cpu: 'amd', directory, kernel: join(directory, 'bzImage'), vmlinux: join(directory, 'vmlinux'),
    config: join(directory, 'config'), headers: join(directory, 'headers'),
  };
}

/**
 * The kernel that the options name, if it is built: by version, or for the source and the recipe of now. Where no source
 * is named and Debian's is not installed, the newest one built.
 */
export function findLab(options: FindLabOptions = {}): Lab | undefined {
  const { version } = options;
  if (version !== undefined) return byVersion(listLabs(options.directory), version);
  const source = kernelSource(options.kernelSource);
  if (source === undefined) return listLabs(options.directory)[0];
  return readLab(join(cachePaths(options.directory).kernels, kernelKey(source)));
}

export function byVersion(labs: readonly Lab[], version: string): Lab | undefined {
  const exact = labs.find(({ key }) => key === version);
  if (exact !== undefined) return exact;
  const near = labs.filter(({ key, kernelRelease }) => key.startsWith(version) || kernelRelease.startsWith(version));
  if (near.length > 1) throw rangeError(`one of the versions ${near.map(({ key }) => key).join(', ')}`, 'version', version);
  return near[0];
}

/**
 * The directory with the headers of the lab's kernel (`linux/kvm.h` is in it), or undefined when no lab is built. Of
 * several kernels the newest built that the options allow.
 */
export function labKernelHeaders(options: FindLabOptions = {}): string | undefined {
  const lab = findLab(options) ?? listLabs(options.directory)[0];
  return lab === undefined ? undefined : join(lab.headers, 'include');
}
