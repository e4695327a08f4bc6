import { describe, expect, it } from 'vitest';
import pico from 'picocolors';
import { renderReport, stepLine } from '../../lib/demo/render.ts';
import { Impossible, Stage, exitCodeOf, type DemoReport, type DemoStep } from '../../lib/demo/report.ts';

const colors = pico.createColors(false);

async function staged(): Promise<{ stage: Stage; seen: DemoStep[] }> {
  const seen: DemoStep[] = [];
  const stage = new Stage((step) => seen.push(step));
  expect(await stage.step('one', 'First', () => 'made 3')).toBe(true);
  expect(
    await stage.step('two', 'Second', async () => Promise.reject(new Impossible('no cap', 'reached the host'))),
  ).toBe(false);
  return { stage, seen };
}

const report = (steps: readonly DemoStep[], where: DemoReport['where'] = 'host'): DemoReport => ({
  tier: 'default',
  where,
  fallback: [],
  steps,
  memory: [{ gpa: 0n, size: 4096, state: 'shared', populated: true }],
});

describe('the steps of the demo', () => {
  it('are filed as done, impossible with the reason, or failed', async () => {
    const { stage, seen } = await staged();
    await stage.step('three', 'Third', () => {
      throw new Error('broken');
    });
    expect(stage.steps).toEqual([
      { id: 'one', title: 'First', status: 'done', detail: 'made 3' },
      { id: 'two', title: 'Second', status: 'impossible', detail: 'reached the host', why: 'no cap' },
      { id: 'three', title: 'Third', status: 'failed', detail: 'broken' },
    ]);
    expect(seen).toEqual(stage.steps);
    expect(exitCodeOf(stage)).toBe(1);
  });

  it('are a success where only the impossible was left out', async () => {
    expect(exitCodeOf((await staged()).stage)).toBe(0);
  });
});

describe('the report of the demo', () => {
  it('ends in a picture, a table and a sum', async () => {
    const text = renderReport(report((await staged()).stage.steps), { colors, width: 100 });
    for (const part of [
      '0x00000000 |=|',
      'not possible',
      'reached the host; no cap',
      '1 of 2 steps done for real on this host',
      '--lab',
    ]) {
      expect(text).toContain(part);
    }
  });

  it('does not send the lab to the lab', async () => {
    const text = renderReport(report((await staged()).stage.steps, 'lab'), { colors });
    expect(text).toContain('in the lab');
    expect(text).not.toContain('--lab');
  });

  it('has a line for each step as it happens', async () => {
    const { seen } = await staged();
    expect(seen.map((step) => stepLine(step, colors))).toEqual(['done  First', 'not possible  Second']);
  });
});
