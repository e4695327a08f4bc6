/** The initramfs: one static program, lab/init, and the two nodes that the kernel wants before it runs. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CHARACTER_DEVICE, DIRECTORY, FILE, writeCpio } from './cpio.ts';
import { LabError } from './error.ts';
import { cachePaths, recipeDirectory } from './paths.ts';

const run = promisify(execFile);
const FLAGS = ['-std=gnu11', '-D_GNU_SOURCE', '-O2', '-Wall', '-Wextra', '-static', '-s'];

/** Path of the initramfs that belongs to the sources in lab/init, built (about half a second) if it is not there yet. */
export async function ensureInitramfs(root?: string): Promise<string> {
  const directory = join(recipeDirectory(), 'init');
  const names = readdirSync(directory).filter((name) => /\.[ch]$/.test(name)).sort();
  const hash = createHash('sha256').update(FLAGS.join(' '));
  for (const name of names) hash.update(`\0${name}\0`).update(readFileSync(join(directory, name)));
  const { initramfs } = cachePaths(root);
  const path = join(initramfs, `${hash.digest('hex').slice(0, 16)}.cpio`);
  if (!existsSync(path)) {
    mkdirSync(initramfs, { recursive: true });
    await build(names.filter((name) => name.endsWith('.c')).map((name) => join(directory, name)), path);
  }
  return path;
}

async function build(sources: readonly string[], path: string): Promise<void> {
  const work = mkdtempSync(`${path}.`);
  try {
    const program = join(work, 'init');
    await run('gcc', [...FLAGS, '-o', program, ...sources]).catch((cause: unknown) => {
      const error = cause as NodeJS.ErrnoException & { stderr?: string };
      const lines = (error.stderr ?? '').trimEnd().split('\n');
      throw new LabError(`the lab's init could not be compiled: ${error.code === 'ENOENT' ? 'there is no gcc' : lines[0]}`,
        'ERR_KVM_LAB_BUILD', { lines, cause: error });
    });
    const archive = join(work, 'cpio');
    writeFileSync(archive, writeCpio([
      { name: 'dev', mode: DIRECTORY | 0o755 },
      { name: 'dev/console', mode: CHARACTER_DEVICE | 0o600, device: [5, 1] },
      { name: 'init', mode: FILE | 0o755, data: readFileSync(program) },
    ]));
    renameSync(archive, path);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
