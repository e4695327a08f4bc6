/** `node-kvm lab status` and `node-kvm lab clean`. */
import { Command } from 'commander';
import { cleanLab, labStatus, type LabStatus } from '../../lab/index.ts';
import { colorsFor, formatBytes, printJson, table } from '../../terminal.ts';
import { findOptions, kernelSourceOption, type KernelOptions } from './lab-common.ts';

export function statusCommand(): Command {
  return new Command('status')
    .description('say what is built, where, and what is missing')
    .addOption(kernelSourceOption())
    .option('--json', 'print it as JSON')
    .action((options: KernelOptions & { readonly json?: boolean }) => {
      const status = labStatus(findOptions(options));
      if (options.json === true) printJson({ ...status, current: status.current?.key ?? null });
      else process.stdout.write(`${render(status)}\n`);
    });
}

function render(status: LabStatus): string {
  const colors = colorsFor(process.stdout);
  const lines = [`Kept in ${status.directory}`];
  if (status.kernels.length > 0) {
    lines.push(
      '',
      table({
        head: ['', 'version', 'Linux', 'size', 'built', 'from'],
        rows: status.kernels.map((lab) => [
          lab.key === status.current?.key ? '*' : ' ',
          lab.key,
          lab.kernelRelease,
          formatBytes(lab.bytes),
          `${lab.builtAt.slice(0, 16).replace('T', ' ')} in ${lab.buildSeconds} s`,
          lab.source,
        ]),
        colors,
      }),
    );
  }
  for (const { key, bytes } of status.unfinished)
    lines.push('', `Not finished: ${key}, ${formatBytes(bytes)}; "lab build" goes on with it.`);
  if (status.current === undefined) lines.push('', 'The lab is not built: npx node-kvm lab build');
  else lines.push('', `In use: ${status.current.key}`);
  if (status.missingPackages.length > 0) {
    lines.push(
      '',
      `Missing Debian packages: ${status.missingPackages.join(' ')} ("npx node-kvm lab build --install" installs them)`,
    );
  }
  return lines.join('\n');
}

export function cleanCommand(): Command {
  return new Command('clean')
    .description('delete old kernels and unfinished builds')
    .option('--all', 'the kernel in use too')
    .action(async ({ all }: { readonly all?: boolean }) => {
      const freed = await cleanLab({ all: all === true });
      process.stderr.write(`Freed ${formatBytes(Math.max(freed, 0))}.\n`);
    });
}
