/** `node-kvm lab`. */
import { Command } from 'commander';
import { buildLab } from '../../lab/index.ts';
import { cleanCommand, statusCommand } from './lab-cache.ts';
import { EXIT_LAB, kernelSourceOption, orLabFailure, positiveInteger, whileSignalsAbort } from './lab-common.ts';
import { runCommand, shellCommand } from './lab-run.ts';

export function labCommand(): Command {
  return new Command('lab')
    .description('build and use a Linux with every KVM feature, on any x86-64 Linux machine')
    .enablePositionalOptions()
    .addHelpText(
      'after',
      `
The lab is an emulated machine (QEMU, no hardware support needed) whose Linux has KVM with private memory. It sees this
machine's files, and writes to none of them unless told to with --writable.

Kept in $NODE_KVM_LAB_DIR, or else in node-kvm/lab below $XDG_CACHE_HOME or ~/.cache.
Exit codes: ${EXIT_LAB} when the lab itself failed; otherwise that of the command that ran.`,
    )
    .addCommand(buildCommand())
    .addCommand(runCommand())
    .addCommand(shellCommand())
    .addCommand(statusCommand())
    .addCommand(cleanCommand());
}

interface BuildOptions {
  readonly install?: boolean;
  readonly kernelSource?: string;
  readonly jobs?: number;
  readonly rebuild?: boolean;
}

function buildCommand(): Command {
  return new Command('build')
    .description("build the lab's kernel (4 to 6 minutes, once) and its init")
    .option('--install', 'install the Debian packages that are missing (as root)')
    .addOption(kernelSourceOption())
    .option('--jobs <n>', 'compile so many files at a time (default: one per processor)', positiveInteger)
    .option('--rebuild', 'make again, after a change in the source tree')
    .action(async (options: BuildOptions) => {
      await orLabFailure(async () => {
        const lab = await whileSignalsAbort((signal) => buildLab({ ...options, signal }));
        process.stderr.write(`The lab is ready: Linux ${lab.kernelRelease} in ${lab.directory}\n`);
      });
    });
}
