import { mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isMakeStep } from '../../lib/lab/build.ts';
import { byVersion, findLab, listLabs } from '../../lib/lab/find.ts';
import { labKernelHeaders, runInLab } from '../../lib/lab/index.ts';
import { checkWritable, commandEnvironment, parseEnv, parseMemory, withNode } from '../../lib/lab/options.ts';
import { cacheDirectory } from '../../lib/lab/paths.ts';
import { debianSource, kernelKey, kernelSource, makefileVersion } from '../../lib/lab/source.ts';

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'node-kvm-lab-'));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

describe('what the lab is asked', () => {
  it('takes sizes as people write them', () => {
    expect(parseMemory('3G')).toBe(3 * 2 ** 30);
    expect(parseMemory('512m')).toBe(2 ** 29);
    expect(parseMemory('1.5GiB')).toBe(1.5 * 2 ** 30);
    expect(parseMemory(2 ** 30)).toBe(2 ** 30);
    expect(() => parseMemory('much')).toThrow("Expected a size like 3G or 512M for memory but received 'much'");
    expect(() => parseMemory('1M')).toThrow(RangeError);
    expect(() => parseMemory(NaN)).toThrow(RangeError);
    expect(() => parseMemory(null)).toThrow(TypeError);
  });

  it('lets only directories that exist be written, and never the root', () => {
    expect(checkWritable([scratch])).toEqual([scratch]);
    expect(() => checkWritable([join(scratch, 'none')])).toThrow('Expected a directory that exists for writable');
    expect(() => checkWritable(['/'])).toThrow('below the root');
  });

  it('runs JavaScript with Node and the rest as it is', () => {
    expect(withNode(['a.mjs', '-x'])).toEqual([process.execPath, 'a.mjs', '-x']);
    expect(withNode(['ls', 'a.js'])).toEqual(['ls', 'a.js']);
  });

  it('keeps what belongs to the host out of the environment', () => {
    const base = {
      PATH: '/bin',
      HOME: '/root',
      SSH_AUTH_SOCK: '/x',
      NODE_CHANNEL_FD: '3',
      DISPLAY: ':0',
      MAKEFLAGS: '-j',
    };
    expect(commandEnvironment({}, base)).toEqual({ PATH: '/bin', HOME: '/root', NODE_KVM_LAB: '1' });
    expect(commandEnvironment({ A: 'x', HOME: undefined, DISPLAY: ':1' }, base)).toEqual({
      PATH: '/bin',
      A: 'x',
      NODE_KVM_LAB: '1',
    });
    expect(commandEnvironment({}, {})['PATH']).toContain('/usr/bin');
  });

  it('reads --env', () => {
    expect(parseEnv(['A=b=c', 'EMPTY=', 'HOME', 'NONE'], { HOME: '/h' })).toEqual({
      A: 'b=c',
      EMPTY: '',
      HOME: '/h',
      NONE: '',
    });
    expect(() => parseEnv(['=x'])).toThrow("Expected NAME=VALUE for --env but received '=x'");
  });

  it('refuses bad options before anything starts', async () => {
    await expect(runInLab({ argv: [] })).rejects.toThrow('Expected a command for argv');
    await expect(runInLab({ argv: ['x'], cwd: 'here' })).rejects.toThrow('Expected an absolute path for cwd');
    await expect(runInLab({ argv: ['x'], cpus: 0 })).rejects.toThrow(RangeError);
    await expect(runInLab({ argv: ['x'], timeoutMs: 0 })).rejects.toThrow(RangeError);
    await expect(runInLab({ argv: ['x'], signal: AbortSignal.abort(new Error('no')) })).rejects.toThrow('no');
    await expect(runInLab({ argv: ['x'], directory: scratch })).rejects.toMatchObject({
      code: 'ERR_KVM_LAB_NOT_BUILT',
    });
  });
});

describe("the lab's cache", () => {
  it('is where the user says', () => {
    expect(cacheDirectory({ NODE_KVM_LAB_DIR: '/l', XDG_CACHE_HOME: '/x', HOME: '/h' })).toBe('/l');
    expect(cacheDirectory({ XDG_CACHE_HOME: '/x', HOME: '/h' })).toBe('/x/node-kvm/lab');
    expect(cacheDirectory({ XDG_CACHE_HOME: 'relative', HOME: '/h' })).toBe('/h/.cache/node-kvm/lab');
    for (const env of [{}, { HOME: '' }]) expect(isAbsolute(cacheDirectory(env))).toBe(true);
  });

  it("takes the newest of Debian's sources, and none without pre-fault", () => {
    writeFileSync(join(scratch, 'linux-source-6.1.tar.xz'), '');
    expect(debianSource(scratch)).toBeUndefined();
    for (const version of ['6.11', '6.12', '6.9']) writeFileSync(join(scratch, `linux-source-${version}.tar.xz`), '');
    expect(debianSource(scratch)).toBe(join(scratch, 'linux-source-6.12.tar.xz'));
  });

  it('tells one tarball from another, wherever it is', () => {
    const [a, b] = ['a', 'b'].map((name) => join(scratch, name));
    for (const directory of [a!, b!]) {
      mkdirSync(directory);
      writeFileSync(join(directory, 'linux-6.tar.xz'), 'x');
      utimesSync(join(directory, 'linux-6.tar.xz'), 1000, 1000);
    }
    symlinkSync(join(a!, 'linux-6.tar.xz'), join(scratch, 'linux-6.tar.xz'));
    const key = (path: string, fragment = 'CONFIG_A=y\n'): string => kernelKey(kernelSource(path)!, fragment);
    const first = key(join(a!, 'linux-6.tar.xz'));
    expect(first).toMatch(/^linux-6-[0-9a-f]{12}$/);
    expect(key(join(b!, 'linux-6.tar.xz'))).toBe(first);
    expect(key(join(scratch, 'linux-6.tar.xz'))).toBe(first);
    // Comments and order are nothing to a kernel; options are.
    expect(key(join(a!, 'linux-6.tar.xz'), '# why\n\nCONFIG_A=y')).toBe(first);
    expect(key(join(a!, 'linux-6.tar.xz'), '# CONFIG_A is not set')).not.toBe(first);
    writeFileSync(join(b!, 'linux-6.tar.xz'), 'xy');
    expect(key(join(b!, 'linux-6.tar.xz'))).not.toBe(first);
  });

  it('tells a source tree by its version', () => {
    writeFileSync(
      join(scratch, 'Makefile'),
      '# SPDX\nVERSION = 6\nPATCHLEVEL = 18\nSUBLEVEL = 2\nEXTRAVERSION = -rc1\n',
    );
    expect(makefileVersion('VERSION = 6\nPATCHLEVEL = 18\nSUBLEVEL = 0\nEXTRAVERSION =\nNAME = X\n')).toBe('6.18.0');
    expect(kernelSource(scratch)).toMatchObject({ kind: 'directory', identity: `${scratch} 6.18.2-rc1 ` });
    expect(() => kernelSource(join(scratch, 'none'))).toThrow('Expected a kernel source directory or tarball');
    rmSync(join(scratch, 'Makefile'));
    expect(() => kernelSource(scratch)).toThrow('Expected a kernel source tree (with its Makefile)');
  });

  it('counts a kernel only when its manifest is there', () => {
    const make = (key: string, builtAt: string, release: string): void => {
      mkdirSync(join(scratch, 'kernels', key), { recursive: true });
      writeFileSync(
        join(scratch, 'kernels', key, 'lab.json'),
        JSON.stringify({ key, builtAt, kernelRelease: release }),
      );
    };
    expect(listLabs(scratch)).toEqual([]);
    expect(labKernelHeaders({ directory: scratch })).toBeUndefined();
    make('linux-1-aaa', '2026-01-01T00:00:00Z', '6.12.1');
    make('linux-2-bbb', '2026-02-01T00:00:00Z', '6.18.0');
    mkdirSync(join(scratch, 'kernels', 'half-ccc'));
    expect(listLabs(scratch).map(({ key }) => key)).toEqual(['linux-2-bbb', 'linux-1-aaa']);
    expect(findLab({ directory: scratch, version: '6.12' })?.kernel).toBe(join(scratch, 'kernels/linux-1-aaa/bzImage'));
    expect(labKernelHeaders({ directory: scratch, version: 'linux-2' })).toBe(
      join(scratch, 'kernels/linux-2-bbb/headers/include'),
    );
    expect(() => byVersion(listLabs(scratch), 'linux')).toThrow(
      'Expected one of the versions linux-2-bbb, linux-1-aaa',
    );
    expect(findLab({ directory: scratch, version: 'none' })).toBeUndefined();
  });

  it('measures a build by the steps that make prints', () => {
    const output = [
      '  CC      kernel/fork.o',
      '  HOSTCC  scripts/x',
      '  LD [M]  x.ko',
      'make[1]: Entering directory',
      '  AR      a.a',
      'warning: x',
    ];
    expect(output.filter(isMakeStep)).toEqual(output.slice(0, 3).concat(output[4]!));
  });
});
