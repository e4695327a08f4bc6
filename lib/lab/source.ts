/** Kernel source trees: which one is meant, and how to tell it from another without reading all of it. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { rangeError } from '../arguments.ts';
import { readRecipe } from './paths.ts';

/** Raise it when a change of the way kernels are built must make new ones of the same source and options. */
export const RECIPE_VERSION = 1;

export interface KernelSource {
  readonly kind: 'tarball' | 'directory';
  readonly path: string;
  /** Two sources with the same identity are taken for the same. */
  readonly identity: string;
}

const DEBIAN_SOURCES = '/usr/src';
/** KVM_PRE_FAULT_MEMORY, the youngest thing that the lab is for, came with Linux 6.11. */
const OLDEST = 6 * 1000 + 11;

/** The newest linux-source tarball that Debian installed, of those new enough for the lab; or undefined. */
export function debianSource(directory = DEBIAN_SOURCES): string | undefined {
  if (!existsSync(directory)) return undefined;
  const versions = readdirSync(directory).flatMap((name) => {
    const match = /^linux-source-(\d+)\.(\d+)\.tar\.\w+$/.exec(name);
    const order = match === null ? 0 : Number(match[1]) * 1000 + Number(match[2]);
    return order < OLDEST ? [] : [{ name, order }];
  });
  versions.sort((a, b) => b.order - a.order);
  return versions[0] === undefined ? undefined : join(directory, versions[0].name);
}

/** The source to build from; undefined when none is named and Debian's is not installed. */
export function kernelSource(path: string | undefined): KernelSource | undefined {
  const chosen = path ?? debianSource();
  if (chosen === undefined) return undefined;
  const stat = statSync(chosen, { throwIfNoEntry: false });
  if (stat === undefined) throw rangeError('a kernel source directory or tarball', 'kernelSource', path);
  const real = realpathSync(chosen);
  if (stat.isDirectory()) return { kind: 'directory', path: real, identity: directoryIdentity(real) };
  // Debian's package sets the time, so every machine with the same package has the same identity.
  return { kind: 'tarball', path: real, identity: `${basename(real)} ${stat.size} ${Math.floor(stat.mtimeMs / 1000)}` };
}

/** The version in the Makefile and the commit, if there is one: edits in the tree need `rebuild`. */
function directoryIdentity(path: string): string {
  const makefile = join(path, 'Makefile');
  const version = existsSync(makefile) ? makefileVersion(readFileSync(makefile, 'utf8')) : undefined;
  if (version === undefined) throw rangeError('a kernel source tree (with its Makefile)', 'kernelSource', path);
  return `${path} ${version} ${gitHead(path)}`;
}

/** `6.12.3-rc1` from the first lines of a kernel's Makefile. */
export function makefileVersion(text: string): string | undefined {
  const value = (name: string): string | undefined => new RegExp(`^${name} *=[ \\t]*(.*)$`, 'm').exec(text)?.[1]?.trim();
  const [major, minor, sublevel, extra] = ['VERSION', 'PATCHLEVEL', 'SUBLEVEL', 'EXTRAVERSION'].map(value);
  return major === undefined || minor === undefined ? undefined : `${major}.${minor}.${sublevel ?? '0'}${extra ?? ''}`;
}

function gitHead(path: string): string {
  const head = join(path, '.git', 'HEAD');
  if (!existsSync(head)) return '';
  const text = readFileSync(head, 'utf8').trim();
  const ref = /^ref: (.*)$/.exec(text)?.[1];
  if (ref === undefined) return text;
  const file = join(path, '.git', ref);
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : text;
}

/** Name of the folder that a kernel is kept in: the same source, options and recipe give the same name. */
export function kernelKey(source: KernelSource, fragment: string = readRecipe('kernel.config')): string {
  const options = fragment.split('\n').map((line) => line.trim()).filter((line) => line !== '' && !isComment(line)).sort();
  const hash = createHash('sha256').update(JSON.stringify([RECIPE_VERSION, source.identity, options]));
  const label = basename(source.path).replace(/\.tar(\.\w+)?$/, '').replace(/[^\w.-]/g, '_');
  return `${label}-${hash.digest('hex').slice(0, 12)}`;
}

function isComment(line: string): boolean {
  return line.startsWith('#') && !/^# CONFIG_\w+ is not set/.test(line);
}
