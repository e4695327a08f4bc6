/** The demo's report for people. */
import { table, type Colors } from '../terminal.ts';
import { drawMemory } from './picture.ts';
import type { DemoReport, DemoStep } from './report.ts';

const PLACES = { host: 'on this host', lab: 'in the lab' } as const;

export interface RenderOptions {
  readonly colors: Colors;
  readonly width?: number | undefined;
}

export function statusWord({ status }: Pick<DemoStep, 'status'>, colors: Colors): string {
  return status === 'done'
    ? colors.green('done')
    : status === 'impossible'
      ? colors.yellow('not possible')
      : colors.red('FAILED');
}

/** One line, for while the demo runs. */
export function stepLine(step: DemoStep, colors: Colors): string {
  return `${statusWord(step, colors)}  ${step.title}${step.status === 'failed' ? `: ${step.detail}` : ''}`;
}

function detailOf({ detail, why }: DemoStep): string {
  return why === undefined ? detail : [detail, why].filter((text) => text !== '').join('; ');
}

/** The picture, the table of steps, and the sum. */
export function renderReport(report: DemoReport, { colors, width }: RenderOptions): string {
  const { steps, memory, tier, where } = report;
  const count = (status: DemoStep['status']): number => steps.filter((step) => step.status === status).length;
  const rows = steps.map((step, index) => [String(index + 1), step.title, statusWord(step, colors), detailOf(step)]);
  const impossible = count('impossible');
  const failed = count('failed');
  const parts = [
    `${count('done')} of ${steps.length} steps done for real ${PLACES[where]}, in a VM of tier ${colors.bold(tier)}`,
    ...(impossible === 0 ? [] : [`${impossible} not possible here`]),
    ...(failed === 0 ? [] : [colors.red(`${failed} failed`)]),
  ];
  return [
    ...(memory.length === 0 ? [] : [colors.bold('Guest memory at the end'), drawMemory(memory, { colors }), '']),
    table({ head: ['', 'step', 'result', 'detail'], rows, colors, width }),
    '',
    `${parts.join('; ')}.`,
    ...(impossible > 0 && where === 'host'
      ? ['To see every step: npm run demo -- --lab (or: npx node-kvm demo --lab).']
      : []),
  ].join('\n');
}
