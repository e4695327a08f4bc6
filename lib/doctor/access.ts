/** Whether /dev/kvm can be used at all, found without the addon. */
import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import type { Host } from '../tier/host.ts';
import type { Findings } from './report.ts';

/** True where /dev/kvm could be opened. */
export function checkAccess(host: Host, found: Findings): boolean {
  if (host.platform !== 'linux' || host.arch !== 'x64') {
    found.no(
      'access',
      'platform',
      'Linux on x86-64',
      'read',
      `${host.platform} on ${host.arch}`,
      'KVM is part of Linux, and node-kvm speaks to it on x86-64: run it on such a machine',
    );
    return false;
  }
  found.yes('access', 'platform', 'Linux on x86-64', 'read', `${host.platform} on ${host.arch}`);
  if (host.container !== undefined)
    found.info('access', 'container', 'In a container', host.container, '/.dockerenv, /proc/1');
  return checkDevice(host, found);
}

function checkDevice(host: Host, found: Findings): boolean {
  try {
    closeSync(openSync(join(host.root, 'dev/kvm'), constants.O_RDWR));
    found.yes('access', 'dev-kvm', '/dev/kvm can be opened', 'tried', 'open("/dev/kvm", O_RDWR)');
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    found.no(
      'access',
      'dev-kvm',
      '/dev/kvm can be opened',
      'tried',
      `open("/dev/kvm", O_RDWR): ${code}`,
      deviceRemedy(host, code ?? ''),
    );
    return false;
  }
}

/** What makes /dev/kvm usable, by the errno of opening it. */
export function deviceRemedy(host: Host, code: string): string {
  const contained = host.container !== undefined;
  if (code === 'EACCES' || code === 'EPERM') {
    return contained
      ? 'Give the container the device: docker run --device /dev/kvm, with a user that may open it (--group-add of the group of /dev/kvm on the host)'
      : 'Permission: add the user to the group of /dev/kvm ("sudo usermod -aG kvm $USER", then log in again)';
  }
  if (contained && code === 'ENOENT') return 'Give the container the device: docker run --device /dev/kvm';
  const { flags, vendor } = host.cpu;
  if (flags.has('vmx')) return loadModule(host, 'kvm_intel', 'VT-x');
  if (flags.has('svm')) return loadModule(host, 'kvm_amd', 'AMD-V');
  if (flags.has('hypervisor')) {
    return (
      'This is a virtual machine without nested virtualization: switch it on for this machine at the hypervisor ' +
      '(CPU model "host" with vmx or svm), or take a bare-metal one. The lab works without: "npx node-kvm lab run <command>"'
    );
  }
  const setting =
    vendor === 'GenuineIntel'
      ? 'VT-x (Intel Virtualization Technology)'
      : vendor === 'AuthenticAMD'
        ? 'AMD-V (SVM mode)'
        : 'virtualization';
  return `Switch ${setting} on in the BIOS; the processor does not show it. The lab works without: "npx node-kvm lab run <command>"`;
}

function loadModule(host: Host, module: string, feature: string): string {
  if (host.kvmModules.includes(module))
    return 'The module is loaded and the device node is missing: udev or "mknod /dev/kvm c 10 232"';
  return `Load the module: "sudo modprobe ${module}"; where that fails, switch ${feature} on in the BIOS ("dmesg | grep -i kvm" says which)`;
}
