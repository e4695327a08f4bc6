/** What the checks add up to, per use. Pure. */
import type { Host } from '../tier/host.ts';
import { remedyFor } from '../tier/remedy.ts';
import { TIER_FACTS, type Tier } from '../tier/tiers.ts';
import type { Check, Verdict } from './report.ts';

type Answers = ReadonlyMap<string, Check>;

export function exitCodeOf(tier: Tier | null): 0 | 1 | 2 {
  if (tier === null) return 2;
  return TIER_FACTS[tier].privateMemory ? 0 : 1;
}

export function verdictsOf(tier: Tier | null, checks: readonly Check[], host: Host): Verdict[] {
  const answers: Answers = new Map(checks.map((check) => [check.id, check]));
  return [vmm(tier, answers), kernelTesting(tier, answers, host), confidential(tier, answers, host)];
}

function noKvm(answers: Answers): { why: string; remedy: string } {
  const first = [...answers.values()].find(({ group, answer }) => group === 'access' && answer === 'no');
  return {
    why: first === undefined ? 'there is no usable KVM' : `${first.title}: no (${first.evidence})`,
    remedy: first?.remedy ?? 'See the checks',
  };
}

function missing(answers: Answers, ids: readonly string[]): string[] {
  return ids.filter((id) => answers.get(id)?.answer !== 'yes').map((id) => answers.get(id)?.title ?? id);
}

function vmm(tier: Tier | null, answers: Answers): Verdict {
  const use = { use: 'vmm', title: 'Run virtual machines (VMM)' };
  if (tier === null) return { ...use, answer: 'no', ...noKvm(answers) };
  const lacking = missing(answers, ['vcpu.run', 'interrupts.irqchip', 'interrupts.irqfd', 'interrupts.ioeventfd']);
  if (lacking.length > 0) {
    return { ...use, answer: 'partly', why: `missing: ${lacking.join(', ')}`, remedy: 'See the checks by these names' };
  }
  if (answers.get('backend')?.value?.startsWith('page-table') === true) {
    return {
      ...use,
      answer: 'partly',
      why: 'the backend emulates unenlightened guests instruction by instruction: small guests run, a Linux kernel does not',
      remedy: 'A host with VMX or SVM for whole operating systems',
    };
  }
  return { ...use, answer: 'yes', why: 'vCPUs run, with interrupts and I/O events in the kernel' };
}

function kernelTesting(tier: Tier | null, answers: Answers, host: Host): Verdict {
  const use = { use: 'kernel-testing', title: 'Test KVM and guest_memfd' };
  if (tier === null) return { ...use, answer: 'no', ...noKvm(answers) };
  if (TIER_FACTS[tier].privateMemory)
    return { ...use, answer: 'yes', why: `${tier} VMs with private memory, attributes and conversions work` };
  const some = TIER_FACTS[tier].guestMemfd !== 'none';
  return {
    ...use,
    answer: some ? 'partly' : 'no',
    why: some ? 'guest_memfd works on default VMs, private memory does not' : 'no VM type here can use a guest_memfd',
    remedy: remedyFor('sw-protected', host),
  };
}

function confidential(tier: Tier | null, answers: Answers, host: Host): Verdict {
  const use = { use: 'confidential-bring-up', title: 'Bring up confidential VMs (SEV, SNP, TDX)' };
  if (tier === null) return { ...use, answer: 'no', ...noKvm(answers) };
  const able = (['tdx', 'snp', 'sev-es', 'sev'] as const).filter(
    (type) => answers.get(`vm-type.${type}`)?.answer === 'yes',
  );
  if (able.length > 0) {
    return {
      ...use,
      answer: 'partly',
      why: `the host makes ${able.join(', ')} VMs; node-kvm gives them bare and cannot launch them yet`,
      remedy: 'Launch them with vm.memoryEncryptOp, or rehearse the memory side on a sw-protected VM',
    };
  }
  const rehearse = TIER_FACTS[tier].privateMemory;
  return {
    ...use,
    answer: rehearse ? 'partly' : 'no',
    why: rehearse
      ? 'no confidential hardware; the memory side can be rehearsed on sw-protected VMs'
      : 'no confidential hardware, and no private memory to rehearse with',
    remedy: remedyFor(host.cpu.vendor === 'GenuineIntel' ? 'tdx' : 'snp', host),
  };
}
