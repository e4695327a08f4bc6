// The checks of form: types, eslint, prettier, clang-format. With --fix, what they can mend they mend.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: options } = parseArgs({
  options: {
    fix: { type: 'boolean', default: false },
    only: { type: 'string' },
  },
});

const cSources = ['native', 'bench/c', 'lab', 'test/sanitizers'].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => /\.(cc|c|h)$/.test(name))
    .map((name) => join(folder, name)),
);

const checks = {
  types: [process.execPath, 'node_modules/typescript/bin/tsc', '-p', 'tsconfig.check.json'],
  eslint: [process.execPath, 'node_modules/eslint/bin/eslint.js', ...(options.fix ? ['--fix'] : []), '.'],
  prettier: [
    process.execPath,
    'node_modules/prettier/bin/prettier.cjs',
    options.fix ? '--write' : '--check',
    '--log-level=warn',
    '.',
  ],
  'clang-format': ['clang-format-14', ...(options.fix ? ['-i'] : ['--dry-run', '--Werror']), ...cSources],
};
if (options.only !== undefined && !(options.only in checks)) {
  console.error(`Expected one of ${Object.keys(checks).join(', ')} for --only but received ${options.only}`);
  process.exit(64);
}

for (const [name, [command, ...argv]] of Object.entries(checks)) {
  if (options.only !== undefined && options.only !== name) continue;
  const { error, status } = spawnSync(command, argv, { cwd: root, stdio: 'inherit' });
  if (error?.code === 'ENOENT') console.error(`lint: ${command} was not found; it is a package of Debian`);
  else if (error) throw error;
  if (status === 0) continue;
  console.error(`lint: ${name} found something`);
  process.exitCode = 1;
}
