/** SEV, SNP and TDX as the host's files show them: processor, module parameters, devices, firmware. */
import type { Host } from '../tier/host.ts';
import { remedyFor } from '../tier/remedy.ts';
import type { Tier } from '../tier/tiers.ts';
import type { Findings } from './report.ts';

interface Technology {
  readonly tier: Tier;
  readonly name: string;
  readonly flag: string;
  readonly module: string;
  readonly parameter: string;
}

const TECHNOLOGIES: readonly Technology[] = [
  { tier: 'sev', name: 'AMD SEV', flag: 'sev', module: 'kvm_amd', parameter: 'sev' },
  { tier: 'sev-es', name: 'AMD SEV-ES', flag: 'sev_es', module: 'kvm_amd', parameter: 'sev_es' },
  { tier: 'snp', name: 'AMD SEV-SNP', flag: 'sev_snp', module: 'kvm_amd', parameter: 'sev_snp' },
  { tier: 'tdx', name: 'Intel TDX', flag: 'tdx_host_platform', module: 'kvm_intel', parameter: 'tdx' },
];

export function checkConfidential(host: Host, found: Findings): void {
  for (const { tier, name, flag, module, parameter } of TECHNOLOGIES) {
    const cpu = host.cpu.flags.has(flag);
    const value = host.parameter(module, parameter);
    const evidence = `/proc/cpuinfo: ${flag} ${cpu ? 'there' : 'not there'}; ${module}.${parameter} = ${value ?? 'not there'}`;
    if (cpu && host.switchedOn(module, parameter) === true)
      found.yes('confidential', `${tier}.host`, `${name} switched on`, 'read', evidence);
    else found.no('confidential', `${tier}.host`, `${name} switched on`, 'read', evidence, remedyFor(tier, host));
  }
  checkSevDevice(host, found);
}

function checkSevDevice(host: Host, found: Findings): void {
  if (host.cpu.vendor !== 'AuthenticAMD' && !host.exists('dev/sev')) return;
  const title = '/dev/sev, the secure processor';
  const refusal = host.refusal('dev/sev');
  if (refusal === undefined) found.yes('confidential', 'dev-sev', title, 'read', 'access("/dev/sev", R_OK | W_OK)');
  else {
    found.no(
      'confidential',
      'dev-sev',
      title,
      'read',
      `access("/dev/sev", R_OK | W_OK): ${refusal}`,
      refusal === 'EACCES'
        ? 'Run as root, or give the user access to /dev/sev'
        : 'The ccp module with the secure processor (CONFIG_CRYPTO_DEV_SP_PSP), on an EPYC processor',
    );
  }
  // The ccp driver shows what the firmware says about itself here, on kernels that have it.
  for (const device of host.list('sys/module/ccp/drivers/pci:ccp').filter((name) => name.includes(':'))) {
    const version = host.read(`sys/module/ccp/drivers/pci:ccp/${device}/bootloader_version`);
    const tee = host.read(`sys/module/ccp/drivers/pci:ccp/${device}/tee_version`);
    if (version !== undefined || tee !== undefined) {
      found.info(
        'confidential',
        `firmware.${device}`,
        'Secure processor firmware',
        `bootloader ${version ?? '?'}, TEE ${tee ?? '?'}`,
        `/sys/module/ccp, ${device}`,
      );
    }
  }
}
