/** `node-kvm lab run` and `node-kvm lab shell`. */
import { Command, Option } from 'commander';
import {
  parseEnv,
  runInLab,
  runInTerminal,
  withNode,
  type RunControl,
  type RunInLabOptions,
  type RunInLabResult,
} from '../../lab/index.ts';
import { printJson } from '../../terminal.ts';
import {
  collect,
  ensureLab,
  findOptions,
  kernelSourceOption,
  labVersionOption,
  memorySize,
  orLabFailure,
  positiveInteger,
  seconds,
  whileSignalsAbort,
  type KernelOptions,
} from './lab-common.ts';

interface MachineOptions extends KernelOptions {
  readonly memory: number;
  readonly cpus: number;
  readonly env: readonly string[];
  readonly writable: readonly string[];
  readonly hugePages?: number;
  readonly build: boolean;
  readonly verbose?: boolean;
}

interface RunOptions extends MachineOptions {
  readonly timeout?: number;
  readonly tty?: boolean;
  readonly json?: boolean;
}

/** How long a command may take to end after the first Ctrl-C. */
const GRACE_MS = 3000;

function machineCommand(name: string): Command {
  return new Command(name)
    .addOption(new Option('--memory <size>', 'memory of the lab').argParser(memorySize).default(3 * 2 ** 30, '3G'))
    .addOption(new Option('--cpus <n>', 'processors of the lab').argParser(positiveInteger).default(2))
    .addOption(
      new Option('--env <name=value>', 'set a variable; NAME alone takes it from here (repeatable)')
        .argParser(collect)
        .default([], 'none'),
    )
    .addOption(
      new Option('--writable <directory>', 'let the lab write through to this directory (repeatable)')
        .argParser(collect)
        .default([], 'none'),
    )
    .option('--huge-pages <n>', 'set aside so many huge pages of 2 MiB, mounted at /dev/hugepages', positiveInteger)
    .addOption(kernelSourceOption())
    .addOption(labVersionOption())
    .option('--no-build', 'fail where the lab is not built, instead of building it')
    .option('-v, --verbose', "show the lab's console on stderr");
}

export function runCommand(): Command {
  return machineCommand('run')
    .description('run a command or a JavaScript file in the lab')
    .argument('<command...>', 'a .js, .mjs or .cjs file for Node, or any command; in the current directory')
    .passThroughOptions()
    .option('--timeout <seconds>', 'end the lab after this time', seconds)
    .option('-t, --tty', 'give the command this terminal (Ctrl-] q ends the lab)')
    .addOption(
      new Option(
        '--json',
        "stdout is a summary { exitCode, signal?, bootSeconds, runSeconds }; the command's goes to stderr",
      ).conflicts('tty'),
    )
    .addHelpText(
      'after',
      `
What is piped in is the command's stdin. The first Ctrl-C goes to the command; a second one, or ${GRACE_MS / 1000} seconds, end the lab.

Exit codes: the command's; 128 + n when signal n ended it; 127 when there is no such command; 125 when the lab failed
(a panic, the time is over, nothing is built).`,
    )
    .action(run);
}

export function shellCommand(): Command {
  return machineCommand('shell')
    .description('open a shell in the lab; it ends with the shell, or with Ctrl-] q')
    .action(async (options: MachineOptions) => {
      await orLabFailure(async () => {
        const { exitCode } = await whileSignalsAbort(async (signal) => {
          await ensureLab(options, signal);
          process.stderr.write('The lab is starting. Ctrl-] q ends it at any time.\n');
          return runInTerminal({ ...machine(options), argv: [process.env['SHELL'] ?? '/bin/bash'], signal });
        });
        process.exitCode = exitCode;
      });
    });
}

function machine(options: MachineOptions): Omit<RunInLabOptions, 'argv'> {
  return {
    ...findOptions(options),
    memory: options.memory,
    cpus: options.cpus,
    env: parseEnv(options.env),
    writable: options.writable,
    ...(options.hugePages === undefined ? {} : { hugePages: options.hugePages }),
    ...(options.verbose === true ? { onConsole: (line: string) => void process.stderr.write(`| ${line}\n`) } : {}),
  };
}

async function run(command: string[], options: RunOptions): Promise<void> {
  await orLabFailure(async () => {
    const result = await runHere(command, options);
    if (options.json === true) {
      const { exitCode, signal, bootMs, runMs } = result;
      printJson({
        exitCode,
        ...(signal === undefined ? {} : { signal }),
        bootSeconds: bootMs / 1000,
        runSeconds: runMs / 1000,
      });
    }
    process.exitCode = result.exitCode;
  });
}

async function runHere(command: readonly string[], options: RunOptions): Promise<RunInLabResult> {
  let control: RunControl | undefined;
  let grace: NodeJS.Timeout | undefined;
  const base = {
    ...machine(options),
    argv: withNode(command),
    ...(options.timeout === undefined ? {} : { timeoutMs: Math.ceil(options.timeout * 1000) }),
  };
  try {
    return await whileSignalsAbort(
      async (signal) => {
        await ensureLab(options, signal);
        if (options.tty === true) return runInTerminal({ ...base, signal });
        return runInLab({
          ...base,
          signal,
          stdout: options.json === true ? process.stderr : process.stdout,
          stderr: process.stderr,
          ...(process.stdin.isTTY ? {} : { stdin: process.stdin }),
          onReady: (given) => {
            control = given;
          },
        });
      },
      (name) => {
        if (control === undefined || grace !== undefined) return false;
        control.kill(name);
        grace = setTimeout(() => process.kill(process.pid, name), GRACE_MS);
        return true;
      },
    );
  } finally {
    clearTimeout(grace);
    // Somebody may hold the other end of the pipe open; that is no reason to stay.
    if (!process.stdin.isTTY) process.stdin.destroy();
  }
}
