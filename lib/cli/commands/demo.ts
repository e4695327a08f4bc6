/** `node-kvm demo`. */
import { Command } from 'commander';
import { demoInLab, hostUsable, runDemo } from '../../demo/index.ts';
import { renderReport, stepLine } from '../../demo/render.ts';
import { exitCodeOf } from '../../demo/report.ts';
import { colorsFor, printJson, wantsColor } from '../../terminal.ts';

const HELP = `
A guest program makes a secret in private memory and converts pages both ways while this process tries to read them.
On whatever this host offers; a step that it cannot do is named, with the reason. Where the host has no usable KVM, the
lab is used (and built first, if need be).

Exit codes: 0 every step that is possible was done; 1 a step failed.

With --json: { tier, where: host|lab, fallback: [{ tier, reason, evidence, remedy }],
  steps: [{ id, title, status: done|impossible|failed, detail, why? }],
  memory: [{ gpa, size, state: private|shared|unbacked, populated }] }. Addresses are hexadecimal strings.`;

interface DemoOptions {
  readonly lab?: boolean;
  readonly json?: boolean;
  readonly color: boolean;
  readonly install?: boolean;
}

export function demoCommand(): Command {
  return new Command('demo')
    .description('run a guest that keeps a secret in private memory, and try to read it')
    .option('--lab', 'in the lab, where every step is possible')
    .option('--install', 'let the lab install the Debian packages that it lacks')
    .option('--json', 'print the report as JSON')
    .option('--no-color', 'no colours')
    .addHelpText('after', HELP)
    .action(demo);
}

async function demo(options: DemoOptions): Promise<void> {
  const inLab = process.env['NODE_KVM_LAB'] === '1';
  const unusable = options.lab === true || inLab ? undefined : hostUsable();
  if (unusable !== undefined) process.stderr.write(`This host has no usable KVM (${unusable}): using the lab.\n`);
  if ((options.lab === true && !inLab) || unusable !== undefined) {
    process.exitCode = await demoInLab({
      json: options.json === true,
      color: wantsColor(process.stdout, options),
      install: options.install === true,
    });
    return;
  }
  const colors = colorsFor(process.stdout, options);
  const live = options.json !== true;
  const report = await runDemo({
    where: inLab ? 'lab' : 'host',
    onStep: (step) => {
      if (live) process.stdout.write(`${stepLine(step, colors)}\n`);
    },
  });
  if (live) process.stdout.write(`\n${renderReport(report, { colors })}\n`);
  else printJson(report);
  process.exitCode = exitCodeOf(report);
}
