/** `node-kvm doctor`. */
import { Command } from 'commander';
import { CHECK_GROUPS, examineHost, type Check, type DoctorReport, type Verdict } from '../../doctor/index.ts';
import { colorsFor, printJson, table, type Colors } from '../../terminal.ts';

const HELP = `
Each line says how it was found out: "tried" was done here and undone, "read" is what a file says.

Exit codes: 0 private memory works; 1 only weaker tiers; 2 no usable KVM.

With --json: { tier, exitCode, host: { platform, arch, kernel, cpu, backend, node },
  verdicts: [{ use, title, answer: yes|partly|no, why, remedy? }],
  checks: [{ id, group, title, answer: yes|no|unknown|info, value?, how: tried|read, evidence, remedy? }] }.
Ids are stable; tier is null without a usable KVM.`;

const GROUP_TITLES: Readonly<Record<Check['group'], string>> = {
  access: 'Access',
  backend: 'Backend',
  'vm-types': 'VM types',
  memory: 'Guest memory',
  'private-memory': 'Private memory',
  vcpu: 'vCPUs',
  interrupts: 'Interrupts',
  'dirty-tracking': 'Dirty tracking',
  confidential: 'Confidential computing',
  limits: 'Limits',
};

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('say what this host can do, found by trying it, and what to do about each "no"')
    .option('--json', 'print the report as JSON')
    .option('--no-color', 'no colours')
    .addHelpText('after', HELP)
    .action((options: { json?: boolean; color: boolean }) => {
      const report = examineHost();
      if (options.json === true) printJson(report);
      else process.stdout.write(`${formatReport(report, colorsFor(process.stdout, { color: options.color }))}\n`);
      process.exitCode = report.exitCode;
    });
}

/** The report for people. */
export function formatReport(report: DoctorReport, colors: Colors, width?: number): string {
  const { host, checks, verdicts } = report;
  const lines = [
    `${colors.bold('node-kvm doctor')}: Linux ${host.kernel}, ${host.cpu}, Node ${host.node}`.replace(
      'Linux',
      host.platform === 'linux' ? 'Linux' : host.platform,
    ),
    '',
  ];
  for (const group of CHECK_GROUPS) {
    const rows = checks.filter((check) => check.group === group).map((check) => row(check, colors));
    if (rows.length > 0)
      lines.push(table({ head: [GROUP_TITLES[group], '', 'how', 'evidence'], rows, colors, width }), '');
  }
  const remedies = remediesOf(checks);
  if (remedies.length > 0) {
    lines.push(colors.bold('What to do about each "no"'));
    for (const { titles, remedy } of remedies) lines.push(`  ${titles.join('; ')}:`, `      ${remedy}`);
    lines.push('');
  }
  lines.push(colors.bold('Verdicts'), ...verdicts.flatMap((verdict) => verdictLines(verdict, colors)), '');
  lines.push(
    `Strongest VM here: ${colors.bold(report.tier ?? 'none')}${report.tier === null ? '' : ' (docs/vm-types.md says what it protects)'}`,
  );
  return lines.join('\n');
}

function row({ title, answer, value, how, evidence }: Check, colors: Colors): string[] {
  const word =
    answer === 'yes'
      ? colors.green(value ?? 'yes')
      : answer === 'no'
        ? colors.red('no')
        : answer === 'info'
          ? (value ?? '')
          : colors.yellow('unknown');
  return [title, word, colors.dim(how), colors.dim(evidence)];
}

/** One entry per remedy: the same advice often answers several checks. */
function remediesOf(checks: readonly Check[]): { titles: string[]; remedy: string }[] {
  const byRemedy = new Map<string, string[]>();
  for (const { remedy, title } of checks) {
    if (remedy !== undefined) byRemedy.set(remedy, [...(byRemedy.get(remedy) ?? []), title]);
  }
  return [...byRemedy].map(([remedy, titles]) => ({ titles, remedy }));
}

function verdictLines({ title, answer, why, remedy }: Verdict, colors: Colors): string[] {
  const word =
    answer === 'yes' ? colors.green('yes') : answer === 'partly' ? colors.yellow('partly') : colors.red('no');
  return [`  ${title}: ${word}, ${why}`, ...(remedy === undefined ? [] : [`      ${colors.dim(remedy)}`])];
}
