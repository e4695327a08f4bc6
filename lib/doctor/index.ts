/** What this host can do, and how that was found out. */
import { KvmError } from '../errors.ts';
import { Kvm } from '../kvm/index.ts';
import { createVm } from '../tier/create-vm.ts';
import { Host } from '../tier/host.ts';
import type { Tier } from '../tier/tiers.ts';
import { checkAccess } from './access.ts';
import { describeFailure } from './attempt.ts';
import { checkBackend } from './backend.ts';
import { checkConfidential } from './confidential.ts';
import { checkLimits } from './limits.ts';
import { Findings, type DoctorReport } from './report.ts';
import { checkDirtyTracking, checkInterrupts, checkPreFault, checkVcpu } from './try-vcpu.ts';
import { checkAttributes, checkGuestMemfd, checkVmTypes } from './try-vm.ts';
import { exitCodeOf, verdictsOf } from './verdicts.ts';

export { CHECK_GROUPS, type Check, type CheckGroup, type DoctorReport, type Verdict } from './report.ts';

/**
 * Finds out what this host can do, by doing it: VMs of each type are made, a guest_memfd bound, pages set private and
 * pre-faulted, guests of a few bytes run. Everything is undone. Takes some milliseconds of blocking calls.
 *
 * Never throws for what the host lacks: without KVM, without permission, without the addon, on another platform, the
 * report says so, and what to do.
 */
export function examineHost(host: Host = new Host()): DoctorReport {
  const found = new Findings();
  let tier: Tier | null = null;
  const reachable = checkAccess(host, found);
  if (host.platform === 'linux') checkBackend(host, found);
  if (reachable) tier = tryKvm(host, found);
  if (host.platform === 'linux') {
    checkConfidential(host, found);
    checkLimits(host, found);
  }
  return {
    tier,
    exitCode: exitCodeOf(tier),
    host: {
      platform: host.platform,
      arch: host.arch,
      kernel: host.kernel,
      cpu: host.cpu.model || host.cpu.vendor || 'unknown',
      backend: host.backend,
      node: process.version,
    },
    verdicts: verdictsOf(tier, found.checks, host),
    checks: found.checks,
  };
}

function tryKvm(host: Host, found: Findings): Tier | null {
  let kvm: Kvm;
  try {
    kvm = Kvm.open();
    found.yes(
      'access',
      'kvm',
      'The kernel answers as KVM',
      'tried',
      'KVM_GET_API_VERSION',
      String(kvm.getApiVersion()),
    );
  } catch (error) {
    if (!(error instanceof KvmError)) throw error;
    const addon = error.code === 'ERR_KVM_UNSUPPORTED';
    found.no(
      'access',
      addon ? 'addon' : 'kvm',
      addon ? 'The native addon loads' : 'The kernel answers as KVM',
      'tried',
      describeFailure(error),
      addon
        ? 'Build it: "npm rebuild node-kvm" (in a checkout: "npm run build:addon"); it needs a C++20 compiler, make and python3'
        : error.message,
    );
    return null;
  }
  try {
    return tryEverything(kvm, host, found);
  } finally {
    kvm.close();
  }
}

function tryEverything(kvm: Kvm, host: Host, found: Findings): Tier | null {
  checkVmTypes(kvm, host, found);
  if (found.answer('vm-type.default') !== 'yes') return null;
  using vm = createVm({ type: 'auto', kvm });
  checkGuestMemfd(vm, host, found);
  checkAttributes(vm, host, found);
  checkPreFault(vm, host, found);
  checkVcpu(kvm, host, found);
  checkInterrupts(kvm, found);
  checkDirtyTracking(kvm, found);
  return vm.tier;
}
