/** Checks and defaults of what the lab is asked to do, and the environment that a command gets. */
import { statSync } from 'node:fs';
import { isAbsolute, resolve } from 'node:path';
import { expectedMessage, rangeError, typeError } from '../arguments.ts';

export const DEFAULT_MEMORY = 3 * 2 ** 30;
export const DEFAULT_CPUS = 2;
const MIN_MEMORY = 256 * 2 ** 20;
const MAX_MEMORY = 512 * 2 ** 30;

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 };

/** Bytes from `3221225472` or `'3G'`, `'512M'`; at least 256 MiB. */
export function parseMemory(value: unknown, name = 'memory'): number {
  const match = typeof value === 'string' ? /^(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?$/i.exec(value.trim()) : null;
  const bytes = match !== null ? Math.round(Number(match[1]) * UNITS[match[2]!.toLowerCase()]!) : value;
  if (typeof bytes !== 'number') {
    const what = 'a size like 3G or 512M';
    throw typeof value === 'string' ? new RangeError(expectedMessage(what, name, value)) : typeError(what, name, value);
  }
  if (!Number.isSafeInteger(bytes) || bytes < MIN_MEMORY || bytes > MAX_MEMORY) {
    throw rangeError('a size from 256M to 512G', name, value);
  }
  return bytes;
}

/** Absolute paths of directories that exist. */
export function checkWritable(directories: readonly string[]): string[] {
  return directories.map((directory) => {
    const path = resolve(directory);
    if (path === '/') throw rangeError('a directory below the root', 'writable', directory);
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) {
      throw rangeError('a directory that exists', 'writable', directory);
    }
    return path;
  });
}

export function checkCwd(cwd: string): string {
  if (!isAbsolute(cwd)) throw rangeError('an absolute path', 'cwd', cwd);
  return cwd;
}

/** The first argument ends in .js, .mjs or .cjs: Node runs it. Anything else is a command. */
export function withNode(argv: readonly string[]): string[] {
  return /\.[mc]?js$/.test(argv[0] ?? '') ? [process.execPath, ...argv] : [...argv];
}

/** What means something on the host only: descriptors, sockets, displays, sessions, the job server of a make. */
const HOST_ONLY = [
  /^NODE_(CHANNEL_FD|CHANNEL_SERIALIZATION_MODE|UNIQUE_ID)$/, /^(DISPLAY|WAYLAND_DISPLAY|XAUTHORITY)$/, /^(SSH|GPG|DBUS|XDG|SYSTEMD|LISTEN)_/,
  /^(NOTIFY_SOCKET|INVOCATION_ID|JOURNAL_STREAM|TMUX|TMUX_PANE|STY|WINDOWID)$/, /^(MAKEFLAGS|MFLAGS|MAKELEVEL)$/,
  /^LD_PRELOAD$/,
  // The lab has no network, and reading a bundle of certificates takes Node a second under emulation.
  /^NODE_EXTRA_CA_CERTS$/,
];

/**
 * The environment of a command in the lab: that of this process, then `more` over it, without what belongs to the host;
 * and `NODE_KVM_LAB=1`, so that a program can tell where it is.
 */
export function commandEnvironment(more: NodeJS.ProcessEnv = {}, base: NodeJS.ProcessEnv = process.env): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries({ ...base, ...more })) {
    if (value !== undefined && !HOST_ONLY.some((pattern) => pattern.test(name))) env[name] = value;
  }
  env['PATH'] ??= '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
  return { ...env, NODE_KVM_LAB: '1' };
}

/** `K=V` pairs; `K` alone takes the value from this process. */
export function parseEnv(pairs: readonly string[], base: NodeJS.ProcessEnv = process.env): Record<string, string> {
  const env: Record<string, string> = {};
  for (const pair of pairs) {
    const at = pair.indexOf('=');
    const name = at === -1 ? pair : pair.slice(0, at);
    if (!/^[^=\s]+$/.test(name)) throw rangeError('NAME=VALUE', '--env', pair);
    env[name] = at === -1 ? (base[name] ?? '') : pair.slice(at + 1);
  }
  return env;
}
