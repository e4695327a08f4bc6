import { execFile } from 'node:child_process';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '../..');

// The build compiles lib/ only; the tests are held to the same rules here.
it('lib and the tests pass the compiler', { timeout: 180_000 }, async () => {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.check.json')],
    { maxBuffer: 1 << 24 },
  ).catch((error: { stdout: string }) => error);
  expect(stdout).toBe('');
});
