/** Builds a lab kernel: unpack, configure, make, and one rename at the end that makes it count. */
import { cpSync, copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { options as checkOptions, uint } from '../arguments.ts';
import { progress as showProgress } from '../terminal.ts';
import { lostOptions, mergeConfig } from './config.ts';
import { LabError } from './error.ts';
import { listLabs, MANIFEST, readLab, type FindLabOptions, type Lab, type LabManifest } from './find.ts';
import { ensureInitramfs } from './initramfs.ts';
import { acquireLock } from './lock.ts';
import { installCommand, installPackages, packagesMissing } from './packages.ts';
import { cachePaths, readRecipe } from './paths.ts';
import { readPins } from './pins.ts';
import { runLogged } from './process.ts';
import { kernelKey, kernelSource, type KernelSource } from './source.ts';
import { unpackSource } from './unpack.ts';

export interface LabProgress {
  /** From 0 to 1; never falls. */
  readonly fraction: number;
  readonly text: string;
}

export interface BuildLabOptions extends Omit<FindLabOptions, 'version'> {
  /** Install missing Debian packages (needs root). Default false: they are named in the error. */
  readonly install?: boolean;
  /** Build even though this kernel is there already (its source directory was edited, say). Default false. */
  readonly rebuild?: boolean;
  /** Default: the number of processors. */
  readonly jobs?: number;
  /** Default: a bar or lines on stderr. */
  readonly onProgress?: (progress: LabProgress) => void;
  /** Something to tell the user. Default: a line on stderr. */
  readonly onMessage?: (text: string) => void;
  readonly signal?: AbortSignal;
}

// How long the steps take, roughly, in parts of the whole.
const UNPACKED = 0.05;
const CONFIGURED = 0.08;
const MADE = 0.98;

/**
 * Builds the lab for the options: its kernel (4 to 6 minutes on 2 processors the first time) and its init. Does nothing
 * when both are there. A build that was interrupted goes on where it was; a second one at the same time waits for the
 * first.
 * @throws LabError: `ERR_KVM_LAB_PACKAGES` when packages are missing and `install` is not set; `ERR_KVM_LAB_BUILD`, with
 * the last lines of the log.
 */
export async function buildLab(options: BuildLabOptions = {}): Promise<Lab> {
  checkOptions('options', options,
    ['kernelSource', 'directory', 'install', 'rebuild', 'jobs', 'onProgress', 'onMessage', 'signal']);
  const display = showProgress('lab kernel');
  let reached = 0;
  const progress = (fraction: number, text: string): void => {
    reached = Math.max(reached, Math.min(fraction, 1));
    if (options.onProgress !== undefined) options.onProgress({ fraction: reached, text });
    else display.update(Math.floor(reached * 1000), 1000, text.slice(0, 40));
  };
  try {
    return await build(options, progress, options.onMessage ?? display.say);
  } finally {
    display.stop();
  }
}

type Report = (fraction: number, text: string) => void;

async function build(options: BuildLabOptions, progress: Report, say: (text: string) => void): Promise<Lab> {
  const { directory, signal, rebuild = false } = options;
  const paths = cachePaths(directory);
  let source = kernelSource(options.kernelSource);
  let built = source === undefined ? listLabs(directory)[0] : readLab(join(paths.kernels, kernelKey(source)));
  await ensurePackages(options, built === undefined || rebuild, say);
  await ensureInitramfs(directory);
  if (built !== undefined && !rebuild) return built;

  source = kernelSource(options.kernelSource);
  if (source === undefined) throw new LabError(`there is no ${readPins().sourcePackage} in /usr/src`, 'ERR_KVM_LAB_PACKAGES');
  const key = kernelKey(source);
  const lock = await acquireLock(join(paths.locks, key), {
    onWait: (holder) => say(`waiting for another build of the same kernel${holder === '' ? '' : ` (${holder})`}`),
    ...(signal === undefined ? {} : { signal }),
  });
  try {
    built = readLab(join(paths.kernels, key));
    if (built !== undefined && !rebuild) return built;
    return await buildKernel(source, key, options, progress);
  } finally {
    await lock.release();
  }
}

async function ensurePackages(options: BuildLabOptions, forBuild: boolean, say: (text: string) => void): Promise<void> {
  const missing = packagesMissing({ build: forBuild, debianSource: options.kernelSource === undefined });
  if (missing.length === 0) return;
  if (options.install !== true) {
    throw new LabError(`the lab needs Debian packages that are not installed: ${missing.join(' ')}. Install them with ` +
      `"npx node-kvm lab build --install", or as root: ${installCommand(missing)}`, 'ERR_KVM_LAB_PACKAGES');
  }
  say(`installing ${missing.join(' ')}`);
  const { root } = cachePaths(options.directory);
  mkdirSync(root, { recursive: true });
  await installPackages(missing, join(root, 'install.log'));
}

async function buildKernel(source: KernelSource, key: string, options: BuildLabOptions, progress: Report): Promise<Lab> {
  const started = performance.now();
  const paths = cachePaths(options.directory);
  const pins = readPins();
  const work = join(paths.builds, key);
  const object = join(work, 'object');
  const log = join(work, 'build.log');
  mkdirSync(object, { recursive: true });
  const common = { log, ...(options.signal === undefined ? {} : { signal: options.signal }) };

  const tree = source.kind === 'directory' ? source.path : join(work, 'source');
  if (source.kind === 'tarball') {
    progress(0, 'unpacking the source');
    await unpackSource(source.path, tree, {
      ...common, onFile: (count) => progress(UNPACKED * Math.min(count / pins.sourceFiles, 1), 'unpacking the source'),
    });
  }

  const env = makeEnvironment();
  const make = (targets: readonly string[], onLine?: (line: string) => void): Promise<void> =>
    runLogged(['make', '-C', tree, `O=${object}`, ...targets], {
      ...common, env, what: 'the lab kernel could not be built', ...(onLine === undefined ? {} : { onLine }),
    });
  progress(UNPACKED, 'configuring');
  await configure(object, make);

  const jobs = uint('jobs', options.jobs ?? availableParallelism(), { min: 1, max: 4096 });
  const expected = Math.max(readLab(join(paths.kernels, key))?.makeLines ?? pins.makeLines, 1);
  const known = existsSync(join(work, 'lines')) ? Number(readFileSync(join(work, 'lines'), 'utf8')) : 0;
  let lines = known;
  try {
    await make([`-j${jobs}`, 'bzImage'], (line) => {
      if (!isMakeStep(line)) return;
      lines++;
      progress(CONFIGURED + (MADE - CONFIGURED) * Math.min(lines / expected, 1), line.trim().replace(/\s+/g, ' '));
    });
  } finally {
    // An interrupted build goes on from here, and so does its bar.
    if (existsSync(work)) writeFileSync(join(work, 'lines'), String(lines));
  }
  progress(MADE, 'exporting the headers');
  await make(['headers']);
  const manifest: LabManifest = {
    key,
    kernelRelease: readFileSync(join(object, 'include/config/kernel.release'), 'utf8').trim(),
    source: source.path,
    builtAt: new Date().toISOString(),
    buildSeconds: Math.round((performance.now() - started) / 1000),
    makeLines: lines,
  };
  progress(MADE, 'tidying up');
  const lab = await install(work, join(paths.kernels, key), manifest);
  progress(1, 'done');
  return lab;
}

async function configure(object: string, make: (targets: readonly string[]) => Promise<void>): Promise<void> {
  const fragment = readRecipe('kernel.config');
  const config = join(object, '.config');
  // A config that has all that is asked is left alone: writing it again would make everything be built again.
  if (!existsSync(config) || lostOptions(readFileSync(config, 'utf8'), fragment).length > 0) {
    await make(['tinyconfig']);
    writeFileSync(config, mergeConfig(readFileSync(config, 'utf8'), fragment));
  }
  await make(['olddefconfig']);
  const lost = lostOptions(readFileSync(config, 'utf8'), fragment);
  if (lost.length > 0) {
    throw new LabError(`this kernel source does not take these options of the lab: ${lost.join(' ')}`, 'ERR_KVM_LAB_BUILD');
  }
}

/** `  CC      kernel/fork.o`: a step of make's short output. */
export function isMakeStep(line: string): boolean {
  return /^\s{2}[A-Z][A-Z0-9_+]*\s+\S/.test(line);
}

/** The same for everybody: what a user has in CFLAGS or MAKEFLAGS does not belong in a kernel that is kept by its key. */
function makeEnvironment(): NodeJS.ProcessEnv {
  const { PATH, HOME, TMPDIR } = process.env;
  return {
    PATH, HOME, ...(TMPDIR === undefined ? {} : { TMPDIR }), LC_ALL: 'C',
    KBUILD_BUILD_USER: 'node-kvm', KBUILD_BUILD_HOST: 'lab', KBUILD_BUILD_VERSION: '1',
  };
}

/** Gathers what is kept beside the build, then puts it in place with one rename. */
async function install(work: string, target: string, manifest: LabManifest): Promise<Lab> {
  const object = join(work, 'object');
  const gathered = join(work, 'gathered');
  rmSync(gathered, { recursive: true, force: true });
  mkdirSync(gathered);
  copyFileSync(join(object, 'arch/x86/boot/bzImage'), join(gathered, 'bzImage'));
  copyFileSync(join(object, 'vmlinux'), join(gathered, 'vmlinux'));
  copyFileSync(join(object, 'System.map'), join(gathered, 'System.map'));
  copyFileSync(join(object, '.config'), join(gathered, 'config'));
  copyFileSync(join(work, 'build.log'), join(gathered, 'build.log'));
  cpSync(join(object, 'usr/include'), join(gathered, 'headers/include'), {
    recursive: true, filter: (path) => /(^|\/)[^./]+$|\.h$/.test(path) && !/\/Makefile$/.test(path),
  });
  writeFileSync(join(gathered, MANIFEST), `${JSON.stringify(manifest, undefined, 2)}\n`);
  mkdirSync(join(target, '..'), { recursive: true });
  if (existsSync(target)) renameSync(target, join(work, 'replaced'));
  renameSync(gathered, target);
  // Tens of thousands of files: not in one breath, so that Ctrl-C is still heard.
  await rm(work, { recursive: true, force: true });
  return readLab(target)!;
}
