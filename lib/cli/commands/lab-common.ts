/** What the lab's commands have in common: options, the way they fail, the way they end. */
import { InvalidArgumentError, Option } from 'commander';
import { buildLab, findLab, LabError, parseMemory, type FindLabOptions } from '../../lab/index.ts';
import { colorsFor } from '../../terminal.ts';

/** The lab itself failed: what a command in it exits with is passed on, so this is a number that few commands use. */
export const EXIT_LAB = 125;

export interface KernelOptions {
  readonly kernelSource?: string;
  readonly labVersion?: string;
}

export function kernelSourceOption(): Option {
  return new Option(
    '--kernel-source <path>',
    'a kernel source tree or tarball (default: the newest linux-source in /usr/src)',
  );
}

export function labVersionOption(): Option {
  return new Option('--lab-version <version>', 'a kernel that is built already, as "lab status" lists them').conflicts(
    'kernelSource',
  );
}

export function findOptions({ kernelSource, labVersion }: KernelOptions): FindLabOptions {
  return {
    ...(kernelSource === undefined ? {} : { kernelSource }),
    ...(labVersion === undefined ? {} : { version: labVersion }),
  };
}

/** Builds what the options name if it is not there, and says so. */
export async function ensureLab(
  options: KernelOptions & { readonly build: boolean },
  signal: AbortSignal,
): Promise<void> {
  if (findLab(findOptions(options)) !== undefined) return;
  if (options.labVersion !== undefined) {
    throw new LabError(
      `there is no lab version ${options.labVersion}; "npx node-kvm lab status" lists those built`,
      'ERR_KVM_LAB_NOT_BUILT',
    );
  }
  // Without, runInLab says what is missing and how to get it.
  if (!options.build) return;
  process.stderr.write('The lab is not built yet: building its kernel, which takes some minutes once.\n');
  const { kernelSource } = options;
  await buildLab({ ...(kernelSource === undefined ? {} : { kernelSource }), signal });
}

/** Shows what the lab has to say for itself, its last lines first, and sets the exit code. */
export async function orLabFailure(act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (error instanceof Interrupted) {
      process.exitCode = error.exitCode;
      return;
    }
    const colors = colorsFor(process.stderr);
    const lines = error instanceof LabError ? error.lines : [];
    for (const line of lines) process.stderr.write(`${colors.dim('|')} ${line}\n`);
    process.stderr.write(`${colors.red('node-kvm lab:')} ${(error as Error).message}\n`);
    process.exitCode = EXIT_LAB;
  }
}

const SIGNAL_NUMBERS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
type EndingSignal = keyof typeof SIGNAL_NUMBERS;

/** This process was told to end. */
export class Interrupted extends Error {
  readonly exitCode: number;

  constructor(signal: EndingSignal) {
    super(`ended by ${signal}`);
    this.exitCode = 128 + SIGNAL_NUMBERS[signal];
  }
}

/**
 * Runs `act` with a signal that is aborted when this process is told to end. `onSignal` may take the first of them for
 * itself by answering true.
 */
export async function whileSignalsAbort<T>(
  act: (signal: AbortSignal) => Promise<T>,
  onSignal: (name: EndingSignal) => boolean = () => false,
): Promise<T> {
  const controller = new AbortController();
  const names = Object.keys(SIGNAL_NUMBERS) as EndingSignal[];
  const listen = (name: NodeJS.Signals): void => {
    if (!onSignal(name as EndingSignal)) controller.abort(new Interrupted(name as EndingSignal));
  };
  for (const name of names) process.on(name, listen);
  try {
    return await act(controller.signal);
  } finally {
    for (const name of names) process.off(name, listen);
  }
}

export function positiveInteger(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('expected an integer of 1 or more.');
  return Number(text);
}

export function seconds(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value > 0) || value > 2_000_000)
    throw new InvalidArgumentError('expected a number of seconds above 0.');
  return value;
}

export function memorySize(text: string): number {
  try {
    return parseMemory(text, '--memory');
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

export function collect(value: string, earlier: readonly string[]): string[] {
  return [...earlier, value];
}
