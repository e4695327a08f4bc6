// Coverage of the ring `debug`: lib by V8's own counters, native by gcov. One table, and floors that only rise.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { basename, dirname, join, normalize, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import libCoverage from 'istanbul-lib-coverage';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const floorsFile = join(root, 'coverage-floors.json');
const objects = join(root, 'build/debug/tree/build/Release/obj.target/node_kvm/native');

/** Options by which vitest leaves what ran of lib in a folder. */
export const coverageArgv = (folder) => [
  '--coverage.enabled',
  '--coverage.provider=v8',
  '--coverage.reporter=json',
  '--coverage.include=lib/**/*.ts',
  `--coverage.reportsDirectory=${folder}`,
  '--coverage.reportOnFailure',
];

/** The counters of native are written where the processes of the lab may write, below the path of the object file. */
export const coverageEnv = (shared) => ({ NODE_KVM_ADDON: 'debug', GCOV_PREFIX: join(shared, 'gcov') });

/**
 * Prints the table; gives a line for each figure below its floor. `folders` have what ran of lib, `shared` what ran of
 * native.
 */
export function coverageProblems(shared, folders) {
  const problems = [];
  const figures = {};
  const merged = libCoverage.createCoverageMap();
  for (const folder of folders) {
    const file = join(folder, 'coverage-final.json');
    if (existsSync(file)) merged.merge(JSON.parse(readFileSync(file, 'utf8')));
    else problems.push(`lib: ${basename(folder)} was not written`);
  }
  Object.assign(figures, libFigures(merged));
  const counters = join(shared, 'gcov', objects);
  if (existsSync(counters)) Object.assign(figures, nativeFigures(counters));
  else problems.push('native: no coverage was written');

  const floors = JSON.parse(readFileSync(floorsFile, 'utf8'));
  console.log('\ncoverage, in percent            lines   floor  branches   floor');
  for (const [name, { lines, branches }] of Object.entries(figures)) {
    const floor = floors[name];
    const cell = (value) => (value === undefined ? '-' : value.toFixed(1)).padStart(8);
    console.log(`  ${name.padEnd(26)}${cell(lines)}${cell(floor?.lines)}  ${cell(branches)}${cell(floor?.branches)}`);
  }
  const raise = [];
  for (const [name, floor] of Object.entries(floors)) {
    for (const [kind, least] of Object.entries(floor)) {
      const value = figures[name]?.[kind];
      if (value === undefined) problems.push(`${name}: no figure for ${kind}`);
      else if (value < least) problems.push(`${name}: ${value.toFixed(1)}% of ${kind}, below the floor of ${least}%`);
      else if (value >= least + 1) raise.push(`${name}.${kind} to ${Math.floor(value * 10) / 10}`);
    }
  }
  if (raise.length > 0) console.log(`\nraise in coverage-floors.json: ${raise.join(', ')}`);
  return problems;
}

const percent = ({ covered, total }) => (total === 0 ? 100 : (100 * covered) / total);

/** A figure for each room of lib, and for all of it. */
function libFigures(coverage) {
  const rooms = new Map();
  for (const file of coverage.files()) {
    const { lines, branches } = coverage.fileCoverageFor(file).toSummary();
    const [first, ...rest] = file.slice(join(root, 'lib').length + 1).split(sep);
    const names = ['lib', rest.length > 0 ? `lib/${first}` : 'lib/*.ts'];
    for (const name of names) {
      const sums = rooms.get(name) ?? { lines: { covered: 0, total: 0 }, branches: { covered: 0, total: 0 } };
      rooms.set(name, sums);
      for (const [sum, part] of [
        [sums.lines, lines],
        [sums.branches, branches],
      ]) {
        sum.covered += part.covered;
        sum.total += part.total;
      }
    }
  }
  return Object.fromEntries(
    [...rooms]
      .sort(([a], [b]) => a.localeCompare(b))
      .map(([name, { lines, branches }]) => [name, { lines: percent(lines), branches: percent(branches) }]),
  );
}

/** The figure for native: a line counts once, however many objects it was compiled into. */
function nativeFigures(counters) {
  const lines = new Map();
  const branches = new Map();
  mkdirSync(counters, { recursive: true });
  for (const name of readdirSync(objects).filter((file) => file.endsWith('.gcno'))) {
    copyFileSync(join(objects, name), join(counters, name));
    const data = join(counters, `${basename(name, '.gcno')}.gcda`);
    if (!existsSync(data)) continue;
    for (const { file, lines: found } of gcov(data)) {
      // Of our own sources: headers of the compiler and of node-addon-api lie elsewhere.
      const source = /(?:^|\/)native\/[^/]+$/.exec(normalize(file))?.[0];
      if (source === undefined || file.includes('node_modules')) continue;
      for (const { line_number: line, count, branches: ways } of found) {
        const key = `${source}:${line}`;
        lines.set(key, (lines.get(key) ?? false) || count > 0);
        // Where a call may throw is no decision of ours.
        ways
          .filter((way) => !way.throw)
          .forEach((way, index) => {
            branches.set(`${key}:${index}`, (branches.get(`${key}:${index}`) ?? false) || way.count > 0);
          });
      }
    }
  }
  const share = (map) => percent({ covered: [...map.values()].filter(Boolean).length, total: map.size });
  return { native: { lines: share(lines), branches: share(branches) } };
}

function gcov(data) {
  const { error, status, stdout, stderr } = spawnSync(
    'gcov',
    ['--json-format', '--stdout', '--branch-probabilities', data],
    {
      cwd: dirname(data),
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    },
  );
  if (error) throw error;
  if (status !== 0) throw new Error(`gcov failed: ${stderr}`);
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .flatMap((line) => JSON.parse(line).files);
}
