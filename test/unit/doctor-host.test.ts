import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import { checkAccess, deviceRemedy } from '../../lib/doctor/access.ts';
import { checkBackend } from '../../lib/doctor/backend.ts';
import { checkConfidential } from '../../lib/doctor/confidential.ts';
import { checkLimits } from '../../lib/doctor/limits.ts';
import { Findings } from '../../lib/doctor/report.ts';
import { exitCodeOf, verdictsOf } from '../../lib/doctor/verdicts.ts';
import { Host } from '../../lib/tier/host.ts';
import { remedyFor } from '../../lib/tier/remedy.ts';

const made: string[] = [];
afterAll(() => made.forEach((path) => rmSync(path, { recursive: true, force: true })));

interface Shape {
  files?: Record<string, string | Buffer>;
  platform?: NodeJS.Platform;
  arch?: string;
}

function host({ files = {}, platform = 'linux', arch = 'x64' }: Shape = {}): Host {
  const root = mkdtempSync(join(tmpdir(), 'node-kvm-host-'));
  made.push(root);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return new Host({ root, platform, arch, kernel: '6.12.1' });
}

const cpu = (vendor: string, flags: string): Record<string, string> => ({
  'proc/cpuinfo': `vendor_id\t: ${vendor}\nmodel name\t: Some ${vendor} CPU\nflags\t\t: fpu ${flags}\n\n`,
});
const parameters = (module: string, values: Record<string, string>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(values).map(([name, value]) => [`sys/module/${module}/parameters/${name}`, `${value}\n`]),
  );

describe('what the host says about itself', () => {
  it('reads processor, modules and parameters', () => {
    const amd = host({
      files: {
        ...cpu('AuthenticAMD', 'svm sev sev_es'),
        ...parameters('kvm_amd', { npt: '1', sev: 'N' }),
        ...parameters('kvm', { tdp_mmu: 'Y' }),
      },
    });
    expect(amd.cpu.vendor).toBe('AuthenticAMD');
    expect(amd.cpu.flags.has('svm')).toBe(true);
    expect(amd.backend).toBe('svm');
    expect([
      amd.switchedOn('kvm_amd', 'npt'),
      amd.switchedOn('kvm_amd', 'sev'),
      amd.switchedOn('kvm_amd', 'sev_es'),
    ]).toEqual([true, false, undefined]);
  });

  it('tells a backend of neither VMX nor SVM', () => {
    expect(
      host({ files: { 'sys/module/kvm_pvm/parameters/x': '1', 'sys/module/kvm/parameters/x': '1' } }).backend,
    ).toBe('page-table');
    expect(host().backend).toBe('none');
    const both = { ...parameters('kvm_intel', { ept: 'N' }), ...parameters('kvm_amd', { npt: 'Y' }) };
    expect(host({ files: { ...both, ...cpu('AuthenticAMD', 'svm') } }).backend).toBe('svm');
    expect(host({ files: { ...both, ...cpu('GenuineIntel', 'vmx') } }).backend).toBe('vmx');
  });

  it('reads kernel options from either place, and knows when it cannot', () => {
    const text = 'CONFIG_KVM=y\n# CONFIG_KVM_SW_PROTECTED_VM is not set\n';
    for (const files of [{ 'boot/config-6.12.1': text }, { 'proc/config.gz': gzipSync(text) }]) {
      expect([host({ files }).kernelOption('CONFIG_KVM'), host({ files }).kernelOption('KVM_SW_PROTECTED_VM')]).toEqual(
        ['y', 'n'],
      );
    }
    expect(host().kernelOption('KVM')).toBeUndefined();
  });

  it('sees a container', () => {
    expect(host({ files: { '.dockerenv': '' } }).container).toBe('docker');
    expect(host({ files: { 'proc/1/environ': 'a=b\0container=lxc\0' } }).container).toBe('lxc');
    expect(host().container).toBeUndefined();
  });
});

describe('access to /dev/kvm', () => {
  it('needs Linux on x86-64', () => {
    const found = new Findings();
    expect(checkAccess(host({ platform: 'darwin', arch: 'arm64' }), found)).toBe(false);
    expect(found.checks[0]).toMatchObject({ id: 'platform', answer: 'no', evidence: 'darwin on arm64' });
  });

  it('says why there is no device', () => {
    const found = new Findings();
    expect(checkAccess(host({ files: cpu('GenuineIntel', 'vmx') }), found)).toBe(false);
    expect(found.checks.at(-1)).toMatchObject({ id: 'dev-kvm', answer: 'no', how: 'tried' });
    expect(found.checks.at(-1)!.remedy).toContain('modprobe kvm_intel');
  });

  it('opens the device', () => {
    const found = new Findings();
    expect(checkAccess(host({ files: { 'dev/kvm': '' } }), found)).toBe(true);
  });

  it.each([
    ['permission', {}, 'EACCES', 'group of /dev/kvm'],
    ['permission in a container', { '.dockerenv': '' }, 'EACCES', '--device /dev/kvm'],
    ['no device in a container', { '.dockerenv': '' }, 'ENOENT', '--device /dev/kvm'],
    ['no module', cpu('AuthenticAMD', 'svm'), 'ENOENT', 'modprobe kvm_amd'],
    ['off in the BIOS', cpu('GenuineIntel', ''), 'ENOENT', 'BIOS'],
    ['not nested', cpu('GenuineIntel', 'hypervisor'), 'ENOENT', 'nested virtualization'],
  ])('explains %s', (_name, files, code, remedy) => {
    expect(deviceRemedy(host({ files }), code)).toContain(remedy);
  });
});

describe('what would make a tier possible', () => {
  it.each([
    ['sw-protected', { ...parameters('kvm_pvm', { x: '1' }) }, 'no two-dimensional paging'],
    ['sw-protected', { ...parameters('kvm_amd', { npt: '0' }) }, 'kvm_amd.npt=1'],
    [
      'sw-protected',
      { ...parameters('kvm_intel', { ept: 'Y' }), ...parameters('kvm', { tdp_mmu: 'N' }) },
      'kvm.tdp_mmu=1',
    ],
    [
      'sw-protected',
      { ...parameters('kvm_amd', { npt: '1' }), 'boot/config-6.12.1': 'CONFIG_KVM=y' },
      'CONFIG_KVM_SW_PROTECTED_VM=y (an expert option that distributions leave off) (here: n)',
    ],
    ['snp', cpu('GenuineIntel', 'vmx'), 'this one is GenuineIntel'],
    ['snp', cpu('AuthenticAMD', 'svm'), 'SNP memory (RMP) coverage'],
    ['snp', { ...cpu('AuthenticAMD', 'svm sev_snp'), ...parameters('kvm_amd', { sev_snp: 'N' }) }, 'kvm_amd.sev_snp=1'],
    ['sev', cpu('AuthenticAMD', 'svm hypervisor'), 'Bare metal'],
    ['tdx', cpu('AuthenticAMD', 'svm'), 'an Intel processor'],
    ['tdx', cpu('GenuineIntel', 'vmx'), 'SEAM loader'],
    [
      'tdx',
      { ...cpu('GenuineIntel', 'vmx tdx_host_platform'), ...parameters('kvm_intel', { tdx: 'N' }) },
      'kvm_intel.tdx=1',
    ],
    ['default-mapped-guest-memfd', {}, '6.18 or later'],
  ] as const)('%s', (tier, files, expected) => {
    expect(remedyFor(tier, host({ files }))).toContain(expected);
  });
});

describe('the rest of what is read', () => {
  it('has a remedy for each "no"', () => {
    const found = new Findings();
    const amd = host({ files: { ...cpu('AuthenticAMD', 'svm'), ...parameters('kvm_amd', { npt: '0', nrips: '0' }) } });
    checkBackend(amd, found);
    checkConfidential(amd, found);
    for (const check of found.checks.filter(({ answer }) => answer === 'no'))
      expect(check.remedy, check.id).toBeTruthy();
    expect(found.answer('parameter.kvm_amd.nrips')).toBe('no');
    expect(found.answer('dev-sev')).toBe('no');
  });

  it('reads limits', () => {
    const found = new Findings();
    checkLimits(
      host({
        files: {
          'proc/self/limits':
            'Limit Soft Hard Units\nMax open files            1024                 4096                 files\nMax locked memory         8388608              8388608              bytes\n',
          'proc/meminfo':
            'MemAvailable:    2097152 kB\nHugePages_Total:       3\nHugePages_Free:        1\nHugepagesize:       2048 kB\n',
        },
      }),
      found,
    );
    expect(found.checks.map(({ id, value }) => [id, value])).toEqual([
      ['memlock', '8192 KiB'],
      ['nofile', '1024'],
      ['memory', '2048 MiB'],
      ['hugepages', '3 of 2 MiB, 1 free'],
    ]);
    expect(found.checks[1]!.remedy).toContain('ulimit -n');
  });
});

describe('verdicts', () => {
  it('give the exit code', () => {
    expect([
      exitCodeOf('sw-protected'),
      exitCodeOf('default-mapped-guest-memfd'),
      exitCodeOf('default'),
      exitCodeOf(null),
    ]).toEqual([0, 1, 1, 2]);
  });

  it('say no to everything without KVM, and why', () => {
    const found = new Findings();
    checkAccess(host({ platform: 'win32' }), found);
    for (const verdict of verdictsOf(null, found.checks, host({ platform: 'win32' }))) {
      expect(verdict).toMatchObject({ answer: 'no', why: expect.stringContaining('win32') as string });
      expect(verdict.remedy).toBeTruthy();
    }
  });

  it('call a page-table based backend partly good for virtual machines', () => {
    const found = new Findings();
    const pvm = host({ files: parameters('kvm_pvm', { x: '1' }) });
    checkBackend(pvm, found);
    for (const id of ['vcpu.run', 'interrupts.irqchip', 'interrupts.irqfd', 'interrupts.ioeventfd'])
      found.yes('vcpu', id, id, 'tried', 'x');
    const verdicts = verdictsOf('default-mapped-guest-memfd', found.checks, pvm);
    expect(verdicts.map(({ answer }) => answer)).toEqual(['partly', 'partly', 'no']);
  });
});
