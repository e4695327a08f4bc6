import { describe, expect, it } from 'vitest';
import { runDemo, type DemoStep } from '../../lib/demo/index.ts';
import { native } from '../../lib/native.ts';

const inLab = (process.env['NODE_KVM_REQUIRE'] ?? '').split(',').includes('lab');
const before = native().census();
const report = await runDemo({ where: inLab ? 'lab' : 'host' });
const step = (id: string): DemoStep | undefined => report.steps.find((each) => each.id === id);

describe('the demo', () => {
  it('fails nowhere', () => {
    expect(report.steps.filter(({ status }) => status === 'failed')).toEqual([]);
    expect(report.steps.length).toBeGreaterThan(18);
  });

  it('runs the guest in long mode, with the event loop free', () => {
    expect(step('run')).toMatchObject({
      status: 'done',
      detail: expect.stringMatching(/long mode.*turned \d+ times/) as string,
    });
    expect(step('halt')?.status).toBe('done');
  });

  it('says why for each step that is not possible', () => {
    for (const { id, why } of report.steps.filter(({ status }) => status === 'impossible'))
      expect(why, id).toMatch(/KVM_CAP|VM/);
  });

  it('leaves nothing open', () => {
    expect(native().census()).toEqual(before);
  });

  it.runIf(inLab)('does every step for real in the lab', () => {
    expect(report.tier).toBe('sw-protected');
    expect(report.steps.filter(({ status }) => status !== 'done')).toEqual([]);
  });

  it.runIf(report.tier === 'sw-protected')(
    'keeps the secret from every way of looking (needs a sw-protected VM)',
    () => {
      const looks = report.steps.filter(({ id }) => id.startsWith('host-'));
      expect(looks).toHaveLength(4);
      for (const { id, detail } of looks) expect(detail, id).not.toContain('READS');
    },
  );

  it.runIf(report.tier === 'sw-protected')('draws private, shared and holes (needs a sw-protected VM)', () => {
    const kinds = new Set(report.memory.map(({ state, populated }) => `${state} ${populated}`));
    expect(kinds).toEqual(new Set(['private true', 'private false', 'shared true', 'shared false']));
  });

  it.runIf(report.tier.startsWith('default'))(
    'says honestly that the host can read a default VM (needs a host without private memory)',
    () => {
      expect(step('host-shared-mapping')?.detail).toContain('READS the secret: "Secret: ');
      // It is in this process's memory, so the search of all of it must come upon it: the search works.
      expect(step('host-proc-self-mem')?.detail).toContain('READS');
    },
  );
});
