// Builds dist/: the TypeScript of lib/ with tsc, and the guest programs of guest/ with gcc into dist/guest/*.bin.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const dist = join(root, 'dist');

// The host loads these as flat images, runs them without an interrupt table, and some hosts emulate every instruction:
// so no SSE, no red zone, no relocations, and loops stay loops (gcc would call memset, which is not there).
const cFlags = [
  '-std=c11', '-O2', '-m64', '-Wall', '-Wextra', '-Werror', '-ffreestanding', '-fno-builtin', '-nostdlib', '-static',
  '-mgeneral-regs-only', '-mno-red-zone', '-mcmodel=small', '-fno-pic', '-no-pie', '-fno-stack-protector',
  '-fcf-protection=none', '-fno-asynchronous-unwind-tables', '-fno-tree-loop-distribute-patterns',
  '-Wl,--build-id=none',
];

class BuildError extends Error {}

function run(command, argv, { quiet = false } = {}) {
  const { error, status, signal } = spawnSync(command, argv, { cwd: root, stdio: quiet ? 'pipe' : ['ignore', 'inherit', 'inherit'] });
  if (error?.code === 'ENOENT') {
    throw new BuildError(`${command} was not found; it is in Debian's package build-essential`);
  }
  if (error) throw error;
  if (status !== 0) throw new BuildError(`${command} ${argv[0] ?? ''} failed (${signal ?? `exit code ${status}`})`);
}

function typescript() {
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  if (!existsSync(tsc)) throw new BuildError('TypeScript is not installed: run "npm ci" first');
  run(process.execPath, [tsc, '-p', join(root, 'tsconfig.json')]);
  removeStale();
  chmodSync(join(dist, 'cli/main.js'), 0o755);
}

/** What an earlier build made of sources that are gone would otherwise be packed. */
function removeStale() {
  for (const name of readdirSync(dist, { recursive: true, encoding: 'utf8' })) {
    const source = name.replace(/(\.d\.ts|\.js|\.js\.map)$/, '.ts');
    if (source !== name && !existsSync(join(root, 'lib', source))) rmSync(join(dist, name));
  }
}

function guest(name) {
  const source = join(root, 'guest', name);
  const files = readdirSync(source).sort();
  const digest = createHash('sha256').update(cFlags.join(' '));
  for (const file of files) digest.update(`\0${file}\0`).update(readFileSync(join(source, file)));
  const key = digest.digest('hex');

  const image = join(dist, 'guest', `${name}.bin`);
  const stamp = `${image}.key`;
  if (existsSync(image) && existsSync(stamp) && readFileSync(stamp, 'utf8') === key) return;

  mkdirSync(dirname(image), { recursive: true });
  const scratch = mkdtempSync(join(dist, 'guest', '.build-'));
  try {
    const elf = join(scratch, `${name}.elf`);
    const flat = join(scratch, `${name}.bin`);
    const inputs = files.filter((file) => /\.[cS]$/.test(file)).map((file) => join(source, file));
    run('gcc', [...cFlags, '-T', join(source, 'link.ld'), '-o', elf, ...inputs]);
    run('objcopy', ['-O', 'binary', elf, flat]);
    renameSync(flat, image);
    writeFileSync(stamp, key);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

try {
  const guests = readdirSync(join(root, 'guest'), { withFileTypes: true }).filter((entry) => entry.isDirectory());
  for (const { name } of guests) guest(name);
  if (!process.argv.includes('--guest-only')) typescript();
} catch (error) {
  if (!(error instanceof BuildError)) throw error;
  console.error(`build: ${error.message}`);
  process.exitCode = 1;
}
