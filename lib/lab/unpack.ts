/** Unpacks a kernel tarball: what an x86 build reads, and none of the rest. */
import { spawn } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { LabError } from './error.ts';
import { runLogged } from './process.ts';

/**
 * Left out. Kconfig files and makefiles stay everywhere, since those of drivers that are off are read too; a driver
 * whose code is left out cannot be turned on by a fragment.
 */
const UNUSED = [
  'Documentation/*.rst', 'Documentation/*.txt', 'Documentation/*.yaml', 'Documentation/*.svg',
  'arch/[!x]*.[chS]', 'arch/xtensa/*.[chS]', 'arch/*.dts', 'arch/*.dtsi',
  'drivers/gpu/*.[ch]', 'drivers/media/*.[ch]', 'drivers/staging/*.[ch]', 'drivers/infiniband/*.[ch]',
  'drivers/net/ethernet/*.[ch]', 'drivers/net/wireless/*.[ch]', 'sound/*.[ch]', 'tools/testing/*', 'tools/perf/*',
];

/** Unpacks into `directory`, without the tarball's own top folder. Does nothing when that was finished before. */
export async function unpackSource(tarball: string, directory: string, options: {
  readonly log: string; readonly onFile?: (count: number) => void; readonly signal?: AbortSignal;
}): Promise<void> {
  const done = `${directory}.done`;
  if (existsSync(done)) return;
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const top = await topFolder(tarball);
  let count = 0;
  await runLogged(
    ['tar', '-xvf', tarball, '-C', directory, '--strip-components=1', '--anchored', '--wildcards',
      ...UNUSED.map((pattern) => `--exclude=${join(top, pattern)}`)],
    {
      log: options.log, what: 'the kernel source could not be unpacked', quiet: true,
      onLine: () => options.onFile?.(++count), ...(options.signal === undefined ? {} : { signal: options.signal }),
    },
  );
  if (!existsSync(join(directory, 'Makefile'))) {
    throw new LabError(`${tarball} holds no kernel source: there is no Makefile in its top folder`, 'ERR_KVM_LAB_BUILD');
  }
  writeFileSync(done, '');
}

/** The folder that everything in the tarball is in, from its first name. */
async function topFolder(tarball: string): Promise<string> {
  const child = spawn('tar', ['-tf', tarball], { stdio: ['ignore', 'pipe', 'ignore'] });
  for await (const name of createInterface({ input: child.stdout })) {
    child.kill();
    return name.replace(/^\.\//, '').split('/')[0]!;
  }
  throw new LabError(`${tarball} cannot be read as a tarball`, 'ERR_KVM_LAB_BUILD');
}
