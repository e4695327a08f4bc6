/** Asks the kernel, by a small C program, what node-kvm has no words for or refuses before the kernel sees it. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { vmTypeNumber } from '../../lib/index.ts';
import type { VmTypeName } from '../../lib/index.ts';

export { lacksCompiler } from './support-kernel.ts';

export interface Answers {
  readonly attributes: Readonly<
    Record<'none' | 'private' | 'otherBits' | 'flags' | 'noSize' | 'oddAddress' | 'oddSize' | 'wrap', string>
  >;
  readonly prefault: Readonly<Record<'flags' | 'oddAddress' | 'oddSize' | 'noSize' | 'wrap', string>>;
  readonly lifetime: Readonly<Record<'punch' | 'allocate' | 'close', string>>;
}

let directory: string | undefined;

/** The program's answer: errnos by name, or `success`. */
export function askKernel<Q extends keyof Answers>(question: Q, type: VmTypeName = 'default'): Answers[Q] {
  const answer = execFileSync(program(), [question, String(vmTypeNumber(type))], { encoding: 'utf8', timeout: 60_000 });
  return JSON.parse(answer) as Answers[Q];
}

/** Built once, and gone with the process. */
function program(): string {
  if (directory === undefined) {
    const made = mkdtempSync(join(tmpdir(), 'node-kvm-'));
    process.once('exit', () => rmSync(made, { recursive: true, force: true }));
    execFileSync('cc', [
      '-O1',
      '-Wall',
      '-Wextra',
      '-Werror',
      '-o',
      join(made, 'ask'),
      fileURLToPath(new URL('guest-kernel.c', import.meta.url)),
    ]);
    directory = made;
  }
  return join(directory, 'ask');
}
