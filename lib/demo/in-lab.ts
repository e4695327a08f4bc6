/** The same command once more, inside the lab. */
import { accessSync, constants, existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KvmError } from '../errors.ts';
import { Kvm } from '../kvm/index.ts';

/** Undefined where /dev/kvm can be used, otherwise why not. */
export function hostUsable(): string | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    Kvm.open().close();
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === undefined
      ? String(error)
      : (error as Error).message.split('\n')[0];
  }
}

export interface DemoInLabOptions {
  readonly json: boolean;
  readonly color: boolean;
  /** Let the lab install Debian packages. */
  readonly install: boolean;
}

/** Builds the lab where it is missing, and gives the exit code of the demo in it. */
export async function demoInLab({ json, color, install }: DemoInLabOptions): Promise<number> {
  const lab = await import('../lab/index.ts');
  if ((await lab.findLab()) === undefined) {
    process.stderr.write('The lab is not built yet: building its kernel, which takes some minutes once.\n');
    await lab.buildLab({ install });
  }
  const { exitCode } = await lab.runInLab({
    argv: [process.execPath, mainScript(), 'demo', ...(json ? ['--json'] : []), ...(color ? [] : ['--no-color'])],
    env: lab.commandEnvironment(process.env, {
      ...(color ? { FORCE_COLOR: '1' } : {}),
      ...(process.stdout.columns === undefined ? {} : { COLUMNS: String(process.stdout.columns) }),
    }),
    stdout: process.stdout,
    stderr: process.stderr,
  });
  return exitCode;
}

function mainScript(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    const script = join(directory, 'dist/cli/main.js');
    if (existsSync(script)) return script;
    if (directory === dirname(directory))
      throw new KvmError('The command was not built: run "npm run build"', 'ERR_KVM_NOT_BUILT');
    directory = dirname(directory);
  }
}
