import { execFile } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
const exec = promisify(execFile);
// Lifecycle scripts of the outer npm must not steer the inner one.
const env = Object.fromEntries(
  Object.entries(process.env).filter(
    ([key]) => !key.startsWith('npm_package_') && !key.startsWith('npm_lifecycle_') && key !== 'INIT_CWD',
  ),
);

let project: string;

beforeAll(async () => {
  project = await mkdtemp(join(tmpdir(), 'node-kvm-package-'));
  const { stdout } = await exec('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', project], {
    cwd: root,
    env,
  });
  const packed = JSON.parse(stdout) as { filename: string }[] | Record<string, { filename: string }>;
  const { filename } = Object.values(packed)[0] as { filename: string };
  await writeFile(join(project, 'package.json'), JSON.stringify({ name: 'empty', private: true, type: 'module' }));
  await exec('npm', ['install', '--foreground-scripts', join(project, filename)], { cwd: project, env });
});

afterAll(async () => {
  await rm(project, { recursive: true, force: true });
});

describe('the packed tarball, in an empty project', () => {
  it('brings its own built addon', async () => {
    expect(await readdir(join(project, 'node_modules/node-kvm/build/Release'))).toContain('node_kvm.node');
  });

  it('loads the addon and opens what the host has', async () => {
    await writeFile(
      join(project, 'use.mjs'),
      `
      import { Kvm, Eventfd, KvmError } from 'node-kvm';
      const eventfd = Eventfd.create();
      eventfd.write(3n);
      console.log('eventfd', eventfd.read());
      eventfd.close();
      try {
        const kvm = Kvm.open();
        console.log('kvm', kvm.getApiVersion());
        kvm.close();
      } catch (error) {
        console.log('kvm', error instanceof KvmError, error.code);
      }
    `,
    );
    const { stdout, stderr } = await exec(process.execPath, ['use.mjs'], { cwd: project });
    expect(stderr).toBe('');
    expect(stdout).toMatch(/^eventfd 3n\nkvm (12|true E[A-Z]+)\n$/);
  });

  it('has types that a strict TypeScript project accepts', async () => {
    await writeFile(
      join(project, 'use.ts'),
      `
      import { Kvm, type VcpuExit } from 'node-kvm';
      export function port(exit: VcpuExit): number | undefined {
        return exit.reason === 'io' ? exit.port : undefined;
      }
      export const open = (): Kvm => Kvm.open('/dev/kvm');
    `,
    );
    await writeFile(
      join(project, 'tsconfig.json'),
      JSON.stringify({
        compilerOptions: {
          strict: true,
          noEmit: true,
          target: 'ES2022',
          module: 'NodeNext',
          moduleResolution: 'NodeNext',
          types: ['node'],
          typeRoots: [join(root, 'node_modules/@types')],
          lib: ['ES2022', 'ESNext.Disposable'],
        },
        files: ['use.ts'],
      }),
    );
    const { stdout } = await exec(process.execPath, [
      join(root, 'node_modules/typescript/bin/tsc'),
      '-p',
      project,
    ]).catch((error: { stdout: string }) => error);
    expect(stdout).toBe('');
  });

  it('runs its command', async () => {
    const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
    const { stdout } = await exec('npx', ['--no-install', 'node-kvm', '--version'], { cwd: project, env });
    expect(stdout.trim()).toBe(version);
  });

  it('explains itself on another platform, on use and not on import', async () => {
    const { stdout } = await exec(
      process.execPath,
      [
        '--input-type=module',
        '--eval',
        `
      Object.defineProperty(process, 'platform', { value: 'darwin' });
      const { Kvm } = await import('node-kvm');
      try { Kvm.open(); } catch (error) { console.log(error.name, error.message); }
    `,
      ],
      { cwd: project },
    );
    expect(stdout).toContain('needs Linux on x86-64');
    expect(stdout).toContain('KvmUnsupportedError');
  });
});
