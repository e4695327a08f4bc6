/**
 * Asks the kernel, by a small C program, what node-kvm keeps its callers from: touching what raises SIGBUS, giving a
 * descriptor that is no guest_memfd. Each question is a process of its own.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { vmTypeNumber } from '../../lib/index.ts';
import type { VmTypeName } from '../../lib/index.ts';

/** What a test that asks the kernel so lacks here. */
export const lacksCompiler = spawnSync('cc', ['--version']).status === 0 ? undefined : 'a C compiler (cc)';

export type Question = 'past-end' | 'not-shared' | 'huge' | 'descriptors' | 'descriptors-shared';

/** The program's answer: errnos or signals by name. */
export function askKernel(question: Question, type: VmTypeName = 'default'): Record<string, string | number> {
  const directory = mkdtempSync(join(tmpdir(), 'node-kvm-'));
  try {
    const program = join(directory, 'ask');
    execFileSync('cc', [
      '-O1',
      '-Wall',
      '-Wextra',
      '-Werror',
      '-o',
      program,
      fileURLToPath(new URL('support-kernel.c', import.meta.url)),
    ]);
    const command = [question, String(vmTypeNumber(type))];
    const answer = execFileSync(program, command, { encoding: 'utf8', timeout: 600_000 });
    return JSON.parse(answer) as Record<string, string | number>;
  } finally {
    rmSync(directory, { recursive: true });
  }
}
