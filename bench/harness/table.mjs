// The result for people.
import { cpus, release } from 'node:os';
import { colorsFor, table } from '../../dist/terminal.js';
import { Host } from '../../dist/tier/host.js';

export function describeMachine() {
  const host = new Host();
  const backend = { vmx: 'Intel VMX', svm: 'AMD SVM', 'page-table': 'page tables, neither VMX nor SVM', none: 'none' }[
    host.backend
  ];
  return `Linux ${release()}, ${cpus().length} CPUs ${host.cpu.model || cpus()[0]?.model}, KVM: ${backend}, Node ${process.version}`;
}

export function drawTable(rows) {
  const colors = colorsFor(process.stdout);
  const verdict = ({ ok, skipped, failed }) =>
    failed !== undefined
      ? colors.red('failed')
      : skipped !== undefined
        ? colors.yellow('skipped')
        : ok === null
          ? '-'
          : ok
            ? colors.green('ok')
            : colors.red('missed');
  return table({
    colors,
    head: ['benchmark', 'where', 'unit', 'ours', 'baseline', 'ratio', '10-90 %', 'runs', 'target', '', 'note'],
    rows: rows.map((row) => [
      row.name,
      row.where,
      row.unit ?? '',
      figure(row.ours),
      figure(row.baseline),
      ratio(row.ratio),
      row.spread === null ? '' : `${ratio(row.spread.p10)}-${ratio(row.spread.p90)}`,
      String(row.runs || ''),
      row.target ?? '',
      verdict(row),
      row.failed ?? (row.skipped === undefined ? row.note : `needs ${row.skipped}`) ?? '',
    ]),
  });
}

function figure(value) {
  if (value === null) return '';
  const digits = value === 0 ? 0 : Math.min(3, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return value.toFixed(digits);
}

const ratio = (value) => (value === null ? '' : value.toFixed(3));
