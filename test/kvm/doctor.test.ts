import { describe, expect, it } from 'vitest';
import pico from 'picocolors';
import { formatReport } from '../../lib/cli/commands/doctor.ts';
import { toJson } from '../../lib/terminal.ts';
import { examineHost, type DoctorReport } from '../../lib/doctor/index.ts';
import { native } from '../../lib/native.ts';

const inLab = (process.env['NODE_KVM_REQUIRE'] ?? '').split(',').includes('lab');
const report = examineHost();
const answer = (id: string): string | undefined => report.checks.find((check) => check.id === id)?.answer;

describe('the doctor', () => {
  it('leaves nothing open', () => {
    const before = native().census();
    examineHost();
    expect(native().census()).toEqual(before);
  });

  it('has found a KVM, by trying', () => {
    expect(report.exitCode).toBeLessThan(2);
    for (const id of ['dev-kvm', 'kvm', 'vm-type.default', 'vcpu.run', 'memslot-v2'])
      expect(answer(id), id).toBe('yes');
    for (const { id, how } of report.checks.filter(({ group }) =>
      ['vm-types', 'memory', 'private-memory', 'vcpu', 'interrupts'].includes(group),
    )) {
      expect(how, id).toBe('tried');
    }
  });

  it('gives evidence for each line and a remedy for each "no"', () => {
    for (const check of report.checks) {
      expect(check.evidence, check.id).not.toBe('');
      if (check.answer === 'no') expect(check.remedy, check.id).toBeTruthy();
    }
    expect(new Set(report.checks.map(({ id }) => id)).size).toBe(report.checks.length);
  });

  it('gives the exit code of the tier', () => {
    expect(report.exitCode).toBe(['sw-protected'].includes(report.tier ?? '') ? 0 : 1);
  });

  it.runIf(inLab)('names the lab: sw-protected, with attributes and pre-fault', () => {
    expect(report).toMatchObject({ tier: 'sw-protected', exitCode: 0 });
    for (const id of [
      'vm-type.sw-protected',
      'guest-memfd.0',
      'attributes.private',
      'pre-fault',
      'vcpu.exit-hypercall',
      'interrupts.ioeventfd',
      'dirty.ring',
    ]) {
      expect(answer(id), id).toBe('yes');
    }
  });

  it('is the same again as JSON, and readable as text', () => {
    const again = JSON.parse(toJson(report)) as DoctorReport;
    expect(Object.keys(again)).toEqual(['tier', 'exitCode', 'host', 'verdicts', 'checks']);
    const text = formatReport(report, pico.createColors(false), 140);
    expect(text).toContain(`Strongest VM here: ${report.tier}`);
    expect(text).toContain('Verdicts');
  });
});
