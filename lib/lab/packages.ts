/** The Debian packages that the lab needs: which are missing, and how to get them. */
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { LabError } from './error.ts';
import { findLab, type FindLabOptions } from './find.ts';
import { readPins } from './pins.ts';
import { runLogged } from './process.ts';
import { debianSource } from './source.ts';

interface Need {
  readonly package: string;
  /** A program in PATH or a file, any of which shows that it is there, whoever installed it. */
  readonly commands?: readonly string[];
  readonly files?: readonly string[];
}

const LIBRARIES = ['/usr/lib/x86_64-linux-gnu', '/usr/lib64', '/usr/lib'];

/** To boot: the emulator, and what compiles the init. */
const RUN_NEEDS: readonly Need[] = [
  { package: 'qemu-system-x86', commands: ['qemu-system-x86_64'] },
  { package: 'util-linux', commands: ['setpriv'] },
  { package: 'gcc', commands: ['gcc'] },
  { package: 'libc6-dev', files: LIBRARIES.map((directory) => join(directory, 'libc.a')) },
];

/** To build a kernel, besides. */
const BUILD_NEEDS: readonly Need[] = [
  { package: 'make', commands: ['make'] },
  { package: 'flex', commands: ['flex'] },
  { package: 'bison', commands: ['bison'] },
  { package: 'bc', commands: ['bc'] },
  { package: 'perl', commands: ['perl'] },
  { package: 'lz4', commands: ['lz4'] },
  { package: 'xz-utils', commands: ['xz'] },
  { package: 'libelf-dev', files: ['/usr/include/libelf.h'] },
];

/** What there is on a machine; a parameter so that the mapping can be checked for machines of every kind. */
export interface Inventory {
  hasCommand(name: string): boolean;
  hasFile(path: string): boolean;
  hasDebianSource(): boolean;
}

const here: Inventory = {
  hasCommand: (name) => (process.env['PATH'] ?? '').split(delimiter).some((directory) => isExecutable(join(directory, name))),
  hasFile: existsSync,
  hasDebianSource: () => debianSource() !== undefined,
};

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export function packagesMissing(
  purpose: { readonly build: boolean; readonly debianSource: boolean }, inventory: Inventory = here,
): string[] {
  const needs = [...RUN_NEEDS, ...(purpose.build ? BUILD_NEEDS : [])];
  const missing = needs.filter(({ commands = [], files = [] }) =>
    !commands.some((name) => inventory.hasCommand(name)) && !files.some((path) => inventory.hasFile(path)));
  const names = missing.map((need) => need.package);
  if (purpose.build && purpose.debianSource && !inventory.hasDebianSource()) names.push(readPins().sourcePackage);
  return names;
}

/**
 * Names of the Debian packages that are missing here for what the options ask: to run only, where the kernel is built
 * already, otherwise to build as well.
 */
export function missingPackages(options: FindLabOptions = {}): string[] {
  const built = findLab(options) !== undefined;
  return packagesMissing({ build: !built, debianSource: options.kernelSource === undefined });
}

/** The command line that installs these Debian packages, to be shown. */
export function installCommand(packages: readonly string[]): string {
  return `apt-get update && apt-get install -y --no-install-recommends ${packages.join(' ')}`;
}

/** Runs the commands that `installCommand` shows. Needs root. */
export async function installPackages(packages: readonly string[], log: string, onLine?: (line: string) => void): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new LabError(`installing packages needs root; as root, run: ${installCommand(packages)}`, 'ERR_KVM_LAB_PACKAGES');
  }
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' };
  const common = { log, env, ...(onLine === undefined ? {} : { onLine }), what: 'the packages could not be installed', code: 'ERR_KVM_LAB_PACKAGES' } as const;
  await runLogged(['apt-get', 'update'], common);
  await runLogged(['apt-get', 'install', '-y', '--no-install-recommends', ...packages], common);
}
