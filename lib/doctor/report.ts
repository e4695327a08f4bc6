/** The shape of what the doctor says. It is the documented output of `node-kvm doctor --json`; keys are only added. */
import type { Tier } from '../tier/tiers.ts';

export const CHECK_GROUPS = [
  'access',
  'backend',
  'vm-types',
  'memory',
  'private-memory',
  'vcpu',
  'interrupts',
  'dirty-tracking',
  'confidential',
  'limits',
] as const;

export type CheckGroup = (typeof CHECK_GROUPS)[number];

export interface Check {
  /** Stable, for scripts: `'vm-type.sw-protected'`. */
  readonly id: string;
  readonly group: CheckGroup;
  readonly title: string;
  /** `'info'` where there is a value and neither yes nor no. */
  readonly answer: 'yes' | 'no' | 'unknown' | 'info';
  readonly value?: string;
  /** `'tried'`: done, and undone. `'read'`: what a file or a capability says. */
  readonly how: 'tried' | 'read';
  /** What was tried and answered, or where it was read. */
  readonly evidence: string;
  /** For a "no": what to do about it. */
  readonly remedy?: string;
}

export interface Verdict {
  /** `'vmm'`, `'kernel-testing'` or `'confidential-bring-up'`. */
  readonly use: string;
  readonly title: string;
  readonly answer: 'yes' | 'partly' | 'no';
  readonly why: string;
  readonly remedy?: string;
}

/** What this host can do, found by trying it. */
export interface DoctorReport {
  /** The strongest tier that was really made here, or null without a usable KVM. */
  readonly tier: Tier | null;
  /** 0: private memory works. 1: only weaker tiers. 2: no usable KVM. */
  readonly exitCode: 0 | 1 | 2;
  readonly host: {
    readonly platform: string;
    readonly arch: string;
    readonly kernel: string;
    readonly cpu: string;
    readonly backend: string;
    readonly node: string;
  };
  readonly verdicts: readonly Verdict[];
  readonly checks: readonly Check[];
}

/** Collects checks; the small words keep the lists of checks readable. */
export class Findings {
  readonly checks: Check[] = [];

  add(check: Check): void {
    this.checks.push(check);
  }

  yes(group: CheckGroup, id: string, title: string, how: Check['how'], evidence: string, value?: string): void {
    this.add({ id, group, title, answer: 'yes', ...(value === undefined ? {} : { value }), how, evidence });
  }

  no(group: CheckGroup, id: string, title: string, how: Check['how'], evidence: string, remedy: string): void {
    this.add({ id, group, title, answer: 'no', how, evidence, remedy });
  }

  info(group: CheckGroup, id: string, title: string, value: string, evidence: string, remedy?: string): void {
    this.add({
      id,
      group,
      title,
      answer: 'info',
      value,
      how: 'read',
      evidence,
      ...(remedy === undefined ? {} : { remedy }),
    });
  }

  answer(id: string): Check['answer'] | undefined {
    return this.checks.find((check) => check.id === id)?.answer;
  }
}
