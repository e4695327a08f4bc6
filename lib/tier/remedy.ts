/** What would make a tier possible on this host. Reads what the host says about itself; the first obstacle wins. */
import type { Host } from './host.ts';
import type { Tier } from './tiers.ts';

const USE_LAB = 'or use the lab, which needs no hardware support: "npx node-kvm lab run <command>"';

export function remedyFor(tier: Tier, host: Host): string {
  switch (tier) {
    case 'tdx':
      return tdx(host);
    case 'snp':
      return amd(host, 'sev_snp', 'SEV-SNP', 'EPYC 7003 (Milan) or later', '6.11');
    case 'sev-es':
      return amd(host, 'sev_es', 'SEV-ES', 'EPYC 7002 (Rome) or later', '6.10');
    case 'sev':
      return amd(host, 'sev', 'SEV', 'EPYC 7001 or later', '6.10');
    case 'sw-protected':
      return swProtected(host);
    case 'default-mapped-guest-memfd':
      return `A kernel of 6.18 or later with CONFIG_KVM_GUEST_MEMFD${option(host, 'KVM_GUEST_MEMFD')}; this one is ${host.kernel}`;
    case 'default-guest-memfd':
      return (
        `A kernel that lets a default VM bind a guest_memfd (6.18 or later, CONFIG_KVM_GUEST_MEMFD${option(host, 'KVM_GUEST_MEMFD')}); ` +
        `this one is ${host.kernel}`
      );
    case 'default':
      return 'A KVM that can create VMs: see "npx node-kvm doctor"';
  }
}

function tdx(host: Host): string {
  if (host.cpu.vendor !== 'GenuineIntel')
    return `A host with an Intel processor that has TDX; this one is ${host.cpu.vendor || 'unknown'}`;
  if (host.cpu.flags.has('hypervisor')) return 'Bare metal: this is a virtual machine, and TDX hosts cannot be nested';
  if (!host.cpu.flags.has('tdx_host_platform')) {
    return (
      'An Intel Xeon of the 4th generation (some models) or later; in the BIOS: total memory encryption with ' +
      'multiple keys (TME-MT), TDX, the SEAM loader, and a key range for TDX; then a kernel of 6.16 or later with CONFIG_KVM_INTEL_TDX'
    );
  }
  if (host.kernelOption('KVM_INTEL_TDX') === 'n') return 'A kernel of 6.16 or later built with CONFIG_KVM_INTEL_TDX=y';
  if (host.switchedOn('kvm_intel', 'tdx') === false)
    return 'The module parameter kvm_intel.tdx=1 (/etc/modprobe.d or the kernel command line)';
  return 'The TDX module must load: "dmesg | grep -i tdx" says why it did not';
}

function amd(host: Host, flag: string, name: string, processors: string, since: string): string {
  if (host.cpu.vendor !== 'AuthenticAMD')
    return `A host with an AMD ${processors}, for ${name}; this one is ${host.cpu.vendor || 'unknown'}`;
  if (!host.cpu.flags.has(flag)) {
    const nested = host.cpu.flags.has('hypervisor')
      ? 'Bare metal: this is a virtual machine, which does not pass it on; there '
      : '';
    return (
      `${nested}an AMD ${processors}; in the BIOS: SMEE, ${name}${flag === 'sev' ? '' : ', a minimum SEV-ES ASID above 1'}` +
      `${flag === 'sev_snp' ? ', SNP memory (RMP) coverage, the IOMMU' : ''}`
    );
  }
  if (host.kernelOption('KVM_AMD_SEV') === 'n') return `A kernel of ${since} or later built with CONFIG_KVM_AMD_SEV=y`;
  if (host.switchedOn('kvm_amd', flag) === false) {
    return `The module parameter kvm_amd.${flag}=1 (with ccp loaded first); if it stays off, "dmesg | grep -i sev" says why`;
  }
  return `A kernel of ${since} or later, which offers the VM type; "dmesg | grep -i sev" says more`;
}

function swProtected(host: Host): string {
  if (host.backend === 'page-table') {
    return `A host with VMX or SVM: this KVM (${host.kvmModules.filter((name) => name !== 'kvm').join(', ')}) has no two-dimensional paging; ${USE_LAB}`;
  }
  const [module, paging] = host.backend === 'vmx' ? (['kvm_intel', 'ept'] as const) : (['kvm_amd', 'npt'] as const);
  if (host.switchedOn(module, paging) === false)
    return `The module parameter ${module}.${paging}=1, on a processor with nested paging; ${USE_LAB}`;
  if (host.switchedOn('kvm', 'tdp_mmu') === false) return `The module parameter kvm.tdp_mmu=1; ${USE_LAB}`;
  return (
    `A kernel of 6.8 or later built with CONFIG_KVM_SW_PROTECTED_VM=y (an expert option that distributions leave off)` +
    `${option(host, 'KVM_SW_PROTECTED_VM')}; ${USE_LAB}`
  );
}

/** What this kernel was built with, in brackets, where that can be read. */
function option(host: Host, name: string): string {
  const value = host.kernelOption(name);
  return value === undefined ? '' : ` (here: ${value})`;
}
