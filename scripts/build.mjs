// Builds dist/: the TypeScript of lib/ with tsc and esbuild, and the guest programs of guest/ with gcc into
// dist/guest/*.bin.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const dist = join(root, 'dist');

// The host loads these as flat images, runs them without an interrupt table, and some hosts emulate every instruction:
// so no SSE, no red zone, no relocations, and loops stay loops (gcc would call memset, which is not there).
const cFlags = [
  '-std=c11',
  '-O2',
  '-m64',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-ffreestanding',
  '-fno-builtin',
  '-nostdlib',
  '-static',
  '-mgeneral-regs-only',
  '-mno-red-zone',
  '-mcmodel=small',
  '-fno-pic',
  '-no-pie',
  '-fno-stack-protector',
  '-fcf-protection=none',
  '-fno-asynchronous-unwind-tables',
  '-fno-tree-loop-distribute-patterns',
  '-Wl,--build-id=none',
];

// What package.json exports, the command, and the two modules that bench/ takes.
const entries = ['index', 'abi/index', 'lab/index', 'cli/main', 'terminal', 'tier/host'];

class BuildError extends Error {}

function run(command, argv, { quiet = false } = {}) {
  const { error, status, signal } = spawnSync(command, argv, {
    cwd: root,
    stdio: quiet ? 'pipe' : ['ignore', 'inherit', 'inherit'],
  });
  if (error?.code === 'ENOENT') {
    throw new BuildError(`${command} was not found; it is in Debian's package build-essential`);
  }
  if (error) throw error;
  if (status !== 0) throw new BuildError(`${command} ${argv[0] ?? ''} failed (${signal ?? `exit code ${status}`})`);
}

/**
 * Types file by file from tsc, JavaScript in a few files from esbuild: a package of 150 modules takes Node four times as
 * much memory to import as the same code in a dozen, and a few times as long.
 */
async function typescript() {
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  if (!existsSync(tsc)) throw new BuildError('TypeScript is not installed: run "npm ci" first');
  run(process.execPath, [tsc, '-p', join(root, 'tsconfig.json'), '--emitDeclarationOnly']);
  const { build } = await import('esbuild');
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: entries.map((name) => `lib/${name}.ts`),
    outbase: 'lib',
    outdir: 'dist',
    chunkNames: 'chunks/[name]-[hash]',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    packages: 'external',
    sourcemap: 'linked',
    sourcesContent: false,
    metafile: true,
    logLevel: 'warning',
  });
  removeStale(new Set(Object.keys(metafile.outputs)));
  chmodSync(join(dist, 'cli/main.js'), 0o755);
}

/** What an earlier build made of sources that are gone would otherwise be packed. */
function removeStale(made) {
  for (const name of readdirSync(dist, { recursive: true, encoding: 'utf8' })) {
    const declaration = name.endsWith('.d.ts');
    if (!declaration && !/\.js(\.map)?$/.test(name)) continue;
    const kept = declaration
      ? existsSync(join(root, 'lib', name.replace(/\.d\.ts$/, '.ts')))
      : made.has(`dist/${name}`);
    if (!kept) rmSync(join(dist, name));
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
  if (!process.argv.includes('--guest-only')) await typescript();
} catch (error) {
  if (!(error instanceof BuildError)) throw error;
  console.error(`build: ${error.message}`);
  process.exitCode = 1;
}
