/**
 * The `node-kvm` command. Each command is loaded only when it is asked for, so that `node-kvm lab` works where the
 * addon was not built, and `--help` is quick.
 *
 * Exit codes: 0 done; 1 and 2 as the command's help says; 64 a mistake in the command line; 70 anything else that went
 * wrong. `lab run` passes on the exit code of what it ran.
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError } from 'commander';
import { colorsFor } from '../terminal.ts';

export const EXIT_USAGE = 64;
export const EXIT_FAILURE = 70;

function packageVersion(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    try {
      const { name, version } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Record<
        string,
        string
      >;
      if (name === 'node-kvm' && version !== undefined) return version;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    if (directory === dirname(directory)) return 'unknown';
    directory = dirname(directory);
  }
}

/** The commands, by name; `lab` brings its own subcommands. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  doctor: async () => (await import('./commands/doctor.ts')).doctorCommand(),
  lab: async () => (await import('./commands/lab.ts')).labCommand(),
  demo: async () => (await import('./commands/demo.ts')).demoCommand(),
};

const SUMMARIES: Readonly<Record<string, string>> = {
  doctor: 'say what this host can do, found by trying it, and what to do about each "no"',
  lab: 'build and use a Linux with every KVM feature, on any x86-64 Linux machine',
  demo: 'run a guest that keeps a secret in private memory, and try to read it',
};

/** The program, with the named command loaded and the others as summaries. */
export async function buildProgram(wanted: string | undefined): Promise<Command> {
  const program = new Command('node-kvm')
    .description('Linux KVM from TypeScript: what this host can do, a lab where it cannot, and a demonstration.')
    .version(packageVersion(), '-V, --version')
    .option('--debug', 'show the stack of an error (as NODE_KVM_DEBUG=1 does)')
    .enablePositionalOptions()
    .showHelpAfterError('(node-kvm --help shows the usage)')
    .addHelpText(
      'after',
      `\nExit codes: 0 done; 1 and 2 as the command's help says; ${EXIT_USAGE} a mistake in the command line; ` +
        `${EXIT_FAILURE} anything else.`,
    );
  for (const [name, load] of Object.entries(COMMANDS)) {
    const command =
      name === wanted
        ? await load()
        : new Command(name)
            .description(SUMMARIES[name]!)
            .allowUnknownOption()
            .action(() => {});
    program.addCommand(command);
  }
  for (const command of [program, ...descendants(program)]) command.exitOverride();
  return program;
}

function descendants(command: Command): Command[] {
  return command.commands.flatMap((child) => [child, ...descendants(child)]);
}

/** Where the command's name stands; what is before it are options of the program itself, which take no values. */
function commandIndex(argv: readonly string[]): number {
  const index = argv.findIndex((argument) => !argument.startsWith('-'));
  return index === -1 ? argv.length : index;
}

/** Runs the command line (without node and script). Gives the exit code; never throws for what a user did. */
export async function main(argv: readonly string[]): Promise<number> {
  const at = commandIndex(argv);
  const debug = argv.slice(0, at).includes('--debug') || !['', undefined, '0'].includes(process.env['NODE_KVM_DEBUG']);
  try {
    const program = await buildProgram(argv[at] === 'help' ? argv[at + 1] : argv[at]);
    await program.parseAsync([...argv], { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
    report(error, debug);
    return EXIT_FAILURE;
  }
}

function report(error: unknown, debug: boolean): void {
  const colors = colorsFor(process.stderr);
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  process.stderr.write(`${colors.red('node-kvm:')} ${debug ? (stack ?? message) : message.split('\n')[0]}\n`);
  if (debug && error instanceof Error && error.cause !== undefined) {
    process.stderr.write(`caused by: ${error.cause instanceof Error ? error.cause.stack : String(error.cause)}\n`);
  }
}
