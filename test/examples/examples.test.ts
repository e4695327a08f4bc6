import { execFile } from 'node:child_process';
import { accessSync, constants, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { findLab, runInLab } from '../../lib/lab/index.ts';

const root = resolve(import.meta.dirname, '../..');

interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

const everywhere: Record<string, RegExp> = {
  'hello.mjs': /^hello from the guest\n$/,
  'ioeventfd-irqfd.mjs': /^the guest rang the doorbell 1 time, .*\nthe interrupt handler answered !\n$/,
  'two-vcpus-in-workers.mjs':
    /^vCPU 0 made \d+ exits, vCPU 1 made \d+, and the guest counted to \d+\nno increment was lost\n$/,
  'dirty-tracking.mjs': new RegExp(
    [
      '^the log: .*',
      '  every 2 pages +(#\\.){32} 32',
      '  every 3 pages +(#\\.\\.){21}# 22',
      '  every 16 pages +(#\\.{15}){4} 4',
      '  nothing since +\\.{64} 0',
      '(no manual protection here .*|manual protection: .*\n  every 4 pages +(#\\.{3}){16} 16\n' +
        '  first half cleared +\\.{32}(#\\.{3}){8} 8\n  and every 8 pages +(#\\.{7}){4}(#\\.{3}){8} 12)',
      '(no dirty ring here .*|the ring: .*\n  every 5 pages +(#\\.{4}){12}#\\.{3} 13\n  every 21 pages +(#\\.{20}){3}# 4)\n$',
    ].join('\n'),
  ),
  'stats.mjs': new RegExp(
    [
      '^kvm-<pid>: \\d+ statistics, \\d+ changed\n(.*\n)*kvm-<pid>/vcpu-0: \\d+ statistics, \\d+ changed',
      '(.*\n)*  exits +\\d+ +\\+1\\d{3}  cumulative',
      '(.*\n)*1000 port exits came here.*\n$',
    ].join('\n'),
  ),
  // Breakpoints are reported by some processors and KVMs only; what was reported has to be right.
  'guest-debug.mjs': new RegExp(
    [
      '^single steps:',
      '  0x1003  add bx, ax +ax 3, bx 0',
      '(.*\n){8}  0x1008  mov \\[0x2000\\], bx +ax 0, bx 6',
      '  0x100c  hlt +ax 0, bx 6',
      'hardware breakpoint at 0x1008: (hit, ax 0, bx 6, dr6 bit 0 is 1|not reported by this KVM .*)',
      'software breakpoint at 0x1008: (hit, ax 0, bx 6\n.*the guest goes on: hlt, and stored 6|not reported by this KVM .*)\n$',
    ].join('\n'),
  ),
  'msr-filter.mjs': new RegExp(
    [
      '^the guest reads MSR 0x174 \\(filter\\): answered with 0xcafe',
      '  and has 0xcafe',
      'the guest writes 0x1234 to MSR 0x175 \\(filter\\): kept here',
      'the guest reads MSR 0x175 \\(filter\\): answered with 0x1234',
      '  and has 0x1234',
      'the guest tries MSR 0x176 \\(filter\\): refused',
      '  and has a #GP\n$',
    ].join('\n'),
  ),
};
/** On a host without a VM type that has private memory, these end with exit code 2 and the reasons. */
const withPrivateMemory: Record<string, RegExp> = {
  'private-memory.mjs':
    /the host wrote 0x41, the guest reads 0x41\nprivate: the guest wrote and reads 0x77, the host's side of the page holds 0x00\n.*private/,
  'conversions.mjs': new RegExp(
    [
      '8 pages at 0x4000 became private \\(asked by hypercall\\), [1-9]\\d* bytes given back',
      '.*doubled at most 0',
      '8 pages at 0x4000 became shared \\(asked by hypercall\\), [1-9]\\d* bytes given back',
      '.*',
      'the host finds 0 in the first page',
    ].join('\n'),
  ),
  'prefault.mjs':
    /^first: 64 MiB in \d+ calls, .*\nagain: 64 MiB in \d+ calls, .*\nthe guest_memfd holds at least 64 MiB\n$/,
};
const all = { ...everywhere, ...withPrivateMemory };

function here(name: string): Promise<Ended> {
  return new Promise((done) => {
    execFile(process.execPath, [join('examples', name)], { cwd: root, timeout: 60_000 }, (error, stdout, stderr) => {
      done({ exitCode: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
    });
  });
}

async function there(name: string): Promise<Ended> {
  const text = { stdout: '', stderr: '' };
  const into = (stream: keyof typeof text): Writable =>
    new Writable({
      write(chunk: Buffer, _encoding, done) {
        text[stream] += chunk.toString();
        done();
      },
    });
  const { exitCode } = await runInLab({
    argv: [process.execPath, join('examples', name)],
    cwd: root,
    stdout: into('stdout'),
    stderr: into('stderr'),
  });
  return { exitCode, ...text };
}

function kvmRefusal(): string | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return (error as { code: string }).code;
  }
}

it('every example has a test', () => {
  expect(Object.keys(all).sort()).toEqual(readdirSync(join(root, 'examples')).sort());
});

const refusal = kvmRefusal();
describe.skipIf(refusal !== undefined)(
  `on the host${refusal === undefined ? '' : ` [needs /dev/kvm: ${refusal}]`}`,
  () => {
    it.each(Object.entries(everywhere))('%s', async (name, output) => {
      expect(await here(name)).toEqual({ exitCode: 0, stdout: expect.stringMatching(output), stderr: '' });
    });

    it.each(Object.entries(withPrivateMemory))('%s, or the reasons why not', async (name, output) => {
      const { exitCode, stdout, stderr } = await here(name);
      if (exitCode === 0) expect(stdout).toMatch(output);
      else expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: expect.stringContaining('sw-protected') });
    });
  },
);

const lab = await findLab();
describe.skipIf(lab === undefined)(
  `in the lab${lab === undefined ? ' [needs the lab: npx node-kvm lab build]' : ''}`,
  () => {
    it.each(Object.entries(all))('%s', async (name, output) => {
      expect(await there(name)).toEqual({ exitCode: 0, stdout: expect.stringMatching(output), stderr: '' });
    });
  },
);
