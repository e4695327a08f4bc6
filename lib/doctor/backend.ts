/** What KVM stands on here, as processor flags and module parameters say. Trying comes elsewhere; this explains it. */
import type { Host } from '../tier/host.ts';
import type { Findings } from './report.ts';

const NAMES: Readonly<Record<string, string>> = {
  vmx: 'Intel VMX',
  svm: 'AMD SVM',
  'page-table': 'page-table based, neither VMX nor SVM',
  none: 'none loaded',
};

export function checkBackend(host: Host, found: Findings): void {
  const modules = host.kvmModules.join(', ');
  found.info(
    'backend',
    'backend',
    'KVM backend',
    NAMES[host.backend] ?? host.backend,
    `/sys/module: ${modules || 'no kvm'}`,
  );
  found.info(
    'backend',
    'cpu-virtualization',
    'Virtualization flag of the processor',
    ['vmx', 'svm'].find((flag) => host.cpu.flags.has(flag)) ?? 'none',
    '/proc/cpuinfo',
  );
  if (host.backend === 'vmx') {
    parameter(
      host,
      found,
      'kvm_intel',
      'ept',
      'Nested paging (EPT)',
      'Load kvm_intel with ept=1; without it private memory and pre-fault do not work',
    );
    parameter(
      host,
      found,
      'kvm_intel',
      'unrestricted_guest',
      'Real-mode guests without emulation',
      'Load kvm_intel with unrestricted_guest=1',
    );
  }
  if (host.backend === 'svm') {
    parameter(
      host,
      found,
      'kvm_amd',
      'npt',
      'Nested paging (NPT)',
      'Load kvm_amd with npt=1; without it private memory and pre-fault do not work',
    );
    parameter(
      host,
      found,
      'kvm_amd',
      'nrips',
      'Next-RIP save',
      'A processor with nrips; without it KVM decodes guest code through the shared mapping, so guest code must stay shared',
    );
  }
  if (host.backend === 'vmx' || host.backend === 'svm') {
    parameter(host, found, 'kvm', 'tdp_mmu', 'TDP MMU', 'Load kvm with tdp_mmu=1; sw-protected VMs need it');
  }
}

function parameter(host: Host, found: Findings, module: string, name: string, title: string, remedy: string): void {
  const id = `parameter.${module}.${name}`;
  const evidence = `/sys/module/${module}/parameters/${name} = ${host.parameter(module, name) ?? 'not there'}`;
  const on = host.switchedOn(module, name);
  if (on === true) found.yes('backend', id, title, 'read', evidence);
  else if (on === false) found.no('backend', id, title, 'read', evidence, remedy);
  else found.add({ id, group: 'backend', title, answer: 'unknown', how: 'read', evidence });
}
