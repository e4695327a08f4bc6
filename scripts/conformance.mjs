// Writes docs/conformance.md: what the conformance tests found on this host and in the lab, point by point.
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const usage = `usage: node scripts/conformance.mjs [--from-host FILE] [--from-lab FILE] [--json FILE]
       node scripts/conformance.mjs --check FILE...
  --from-host, --from-lab  take a vitest JSON report instead of running the tests there
  --json FILE              write the same as JSON, too
  --check                  write nothing; exit 1 where a point fails in one of these vitest JSON reports, or has
                           neither a test nor a stated reason`;

/** Points that have no test, and why. */
const ENCRYPTED = 'needs a guest that runs encrypted, on a processor with SEV';
const WITHOUT_TEST = new Map([
  ...[7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 20].map((number) => [`7.${number}`, ENCRYPTED]),
]);

/** @typedef {{ file: string, title: string, status: 'passed' | 'failed' | 'skipped', reason?: string }} Test */
/** @typedef {{ kernel: string, cpu: string, backend: string }} Machine */
/** @typedef {{ machine?: Machine, tests: Map<string, Test[]>, differs: object[], broken: string[] }} Report */

const UNNAMED = 'what the test itself says when it runs';

/** The points, from the TypeScript that the tests import them from. */
async function loadPoints() {
  const { default: ts } = await import('typescript');
  const source = readFileSync(join(root, 'test/conformance/points.ts'), 'utf8');
  const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
  const { outputText } = ts.transpileModule(source, { compilerOptions });
  return (await import(`data:text/javascript,${encodeURIComponent(outputText)}`)).POINTS;
}

/** @returns {Report} */
function readReport(file) {
  const report = { machine: undefined, tests: new Map(), differs: [], broken: [] };
  for (const suite of JSON.parse(readFileSync(file, 'utf8')).testResults) {
    const name = basename(suite.name);
    if (!suite.name.includes('test/conformance/')) continue;
    if (suite.status === 'failed' && suite.assertionResults.every(({ status }) => status !== 'failed')) {
      report.broken.push(`${name}: ${(suite.message ?? 'did not load').split('\n')[0]}`);
    }
    for (const { title, status, meta } of suite.assertionResults) {
      if (meta?.machine !== undefined) report.machine = meta.machine;
      report.differs.push(...(meta?.kernelDiffers ?? []));
      const id = /^\d+\.\d+(?= )/.exec(title)?.[0];
      if (id === undefined) continue;
      const test = { file: name, title, status: status === 'passed' || status === 'failed' ? status : 'skipped' };
      if (test.status === 'skipped') test.reason = /\[needs (.*)\]$/.exec(title)?.[1] ?? UNNAMED;
      report.tests.set(id, [...(report.tests.get(id) ?? []), test]);
    }
  }
  return report;
}

const argvOf = (output) => [
  process.execPath,
  join(root, 'node_modules/vitest/vitest.mjs'),
  'run',
  '--project',
  'kvm',
  'test/conformance',
  '--reporter=dot',
  '--reporter=json',
  `--outputFile.json=${output}`,
];

async function runOnHost(scratch) {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch (error) {
    console.log(`The host is left out: /dev/kvm cannot be opened (${error.code})`);
    return undefined;
  }
  const output = join(scratch, 'host.json');
  const [command, ...rest] = argvOf(output);
  await new Promise((resolve, reject) => {
    spawn(command, rest, { cwd: root, stdio: 'inherit' }).on('error', reject).on('exit', resolve);
  });
  return finished(output, 'on the host');
}

async function runInTheLab(scratch) {
  const lab = await import('../dist/lab/index.js');
  if ((await lab.findLab()) === undefined) throw new Error('There is no lab yet: "npx node-kvm lab build" makes it');
  const output = join(scratch, 'lab.json');
  await lab.runInLab({
    argv: argvOf(output),
    cwd: root,
    env: { ...process.env, NODE_KVM_REQUIRE: 'kvm,lab' },
    writable: [scratch],
    hugePages: 8,
    timeoutMs: 20 * 60_000,
    stdout: process.stdout,
    stderr: process.stderr,
  });
  return finished(output, 'in the lab');
}

function finished(output, where) {
  if (existsSync(output)) return output;
  throw new Error(`The tests ${where} left no report`);
}

const PLACES = ['host', 'lab'];

/** One row for each point. */
function rowsOf(points, reports) {
  return points.map((point) => {
    const tests = new Map(PLACES.map((place) => [place, reports[place]?.tests.get(point.id) ?? []]));
    const all = [...tests.values()].flat();
    const has = (status) => all.some((test) => test.status === status);
    const outcome = has('failed')
      ? 'failed'
      : has('passed')
        ? 'passed'
        : has('skipped')
          ? 'skipped'
          : WITHOUT_TEST.has(point.id)
            ? 'no test'
            : 'missing';
    return { ...point, outcome, tests, reasons: reasonsOf(point, tests, outcome) };
  });
}

function reasonsOf(point, tests, outcome) {
  if (outcome === 'no test') return [WITHOUT_TEST.get(point.id)];
  const byReason = new Map();
  for (const place of PLACES) {
    for (const { reason } of tests.get(place)) {
      if (reason !== undefined) byReason.set(reason, new Set([...(byReason.get(reason) ?? []), place]));
    }
  }
  return [...byReason]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([reason, places]) => `needs ${reason} (${[...places].join(', ')})`);
}

/** What fails `--check`, in words. */
function problemsOf(rows, reports) {
  const problems = [];
  for (const place of PLACES) {
    for (const line of reports[place]?.broken ?? []) problems.push(`${place}: ${line}`);
  }
  for (const { id, text, outcome, tests } of rows) {
    if (outcome === 'missing') problems.push(`${id} ${text}: no test, and no reason for that`);
    for (const place of PLACES) {
      for (const { status, file, title } of tests.get(place)) {
        if (status === 'failed') problems.push(`${place}: ${file}: ${title}`);
      }
    }
  }
  return problems;
}

const cell = (text) => text.replaceAll('|', '\\|');

/** `3 passed, 1 skipped` */
function resultOf(tests, report) {
  if (report === undefined) return 'not run';
  const count = (status) => tests.filter((test) => test.status === status).length;
  const words = ['failed', 'passed', 'skipped']
    .filter((status) => count(status) > 0)
    .map((status) => (tests.length === 1 ? status : `${count(status)} ${status}`));
  return words.length === 0 ? '' : words.join(', ');
}

function filesOf(tests) {
  const counts = PLACES.map((place) => {
    const files = new Map();
    for (const { file } of tests.get(place)) files.set(file, (files.get(file) ?? 0) + 1);
    return files;
  });
  const names = [...new Set(counts.flatMap((files) => [...files.keys()]))].sort();
  return names
    .map((name) => {
      const most = Math.max(...counts.map((files) => files.get(name) ?? 0));
      return `\`${name.replace('.test.ts', '')}\`${most > 1 ? ` × ${most}` : ''}`;
    })
    .join(', ');
}

function differencesOf(reports) {
  const lines = PLACES.flatMap((place) =>
    (reports[place]?.differs ?? []).map(({ id, answer, kernel, backend }) => ({
      id,
      line: `- **${id}** on Linux ${kernel}, ${BACKENDS[backend] ?? backend}: ${answer}`,
    })),
  );
  const number = (id) => id.split('.').reduce((sum, part) => sum * 1000 + Number(part), 0);
  lines.sort((a, b) => number(a.id) - number(b.id) || (a.line < b.line ? -1 : 1));
  return [...new Set(lines.map(({ line }) => line))];
}

const BACKENDS = {
  vmx: 'Intel VMX',
  svm: 'AMD SVM',
  'page-table': 'page-table based, neither VMX nor SVM',
  none: 'neither VMX nor SVM',
};
const OUTCOMES = ['passed', 'failed', 'skipped', 'no test', 'missing'];

function render(rows, reports) {
  const count = (outcome) => rows.filter((row) => row.outcome === outcome).length;
  const counted = OUTCOMES.filter((outcome) => count(outcome) > 0).map((outcome) => `${count(outcome)} ${outcome}`);
  const lines = [
    '# Conformance',
    '',
    "What the kernel's own tests of guest memory check, point by point, and what it comes to through node-kvm.",
    'Written by `node scripts/conformance.mjs` from a run of `test/conformance` on a host and in the [lab](lab.md):',
    'do not edit.',
    '',
    '| | kernel | processor | KVM | tests |',
    '|---|---|---|---|---|',
    ...PLACES.map((place) => {
      const report = reports[place];
      if (report === undefined) return `| ${place} | not run | | | |`;
      const { kernel = 'unknown', cpu = 'unknown', backend = 'unknown' } = report.machine ?? {};
      const counts = resultOf([...report.tests.values()].flat(), report);
      return `| ${place} | Linux ${kernel} | ${cell(cpu)} | ${BACKENDS[backend] ?? backend} | ${counts} |`;
    }),
    '',
    `${rows.length} points: ${counted.join(', ')}. A point has passed where a`,
    'test of it passed on the host or in the lab and none failed. (L) and (N) mark points of the tests of Linux 6.12',
    'alone, and of the newest tests alone.',
    '',
    '## Where the kernel and the point disagree',
    '',
    'The tests hold the kernel to its own answer there.',
    '',
    ...or(differencesOf(reports), 'Nowhere.'),
    '',
  ];
  for (const section of [...new Set(rows.map((row) => row.section))]) {
    const part = rows.filter((row) => row.section === section);
    lines.push(`## ${part[0].id.split('.')[0]} ${section}`, '');
    lines.push('| point | tests | host | lab | why not |', '|---|---|---|---|---|');
    for (const { id, text, generation, tests, reasons } of part) {
      lines.push(
        `| ${[
          `${id} ${text}${generation === undefined ? '' : ` (${generation})`}`,
          filesOf(tests),
          ...PLACES.map((place) => resultOf(tests.get(place), reports[place])),
          reasons.join('; '),
        ]
          .map(cell)
          .join(' | ')} |`,
      );
    }
    lines.push('');
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

const or = (lines, none) => (lines.length === 0 ? [none] : lines);

/** The same, for programs. */
function toJson(rows, reports) {
  return {
    machines: Object.fromEntries(PLACES.map((place) => [place, reports[place]?.machine ?? null])),
    differs: PLACES.flatMap((place) => (reports[place]?.differs ?? []).map((one) => ({ place, ...one }))),
    points: rows.map(({ tests, ...row }) => ({ ...row, tests: Object.fromEntries(tests) })),
  };
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      'from-host': { type: 'string' },
      'from-lab': { type: 'string' },
      json: { type: 'string' },
      check: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return console.log(usage);
  if (values.check !== positionals.length > 0) throw new Error(usage);
  const points = await loadPoints();
  if (values.check) {
    for (const problem of checkFiles(points, positionals)) {
      console.error(problem);
      process.exitCode = 1;
    }
    return undefined;
  }
  const scratch = mkdtempSync(join(tmpdir(), 'node-kvm-conformance-'));
  process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
  const files = {
    host: values['from-host'] ?? (await runOnHost(scratch)),
    lab: values['from-lab'] ?? (await runInTheLab(scratch)),
  };
  const read = (file) => (file === undefined ? undefined : readReport(file));
  const reports = Object.fromEntries(PLACES.map((place) => [place, read(files[place])]));
  const rows = rowsOf(points, reports);
  writeFileSync(join(root, 'docs/conformance.md'), render(rows, reports));
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(toJson(rows, reports), null, 2)}\n`);
  const problems = problemsOf(rows, reports);
  for (const problem of problems) console.error(problem);
  const count = (outcome) => rows.filter((row) => row.outcome === outcome).length;
  console.log(OUTCOMES.map((outcome) => `${count(outcome)} ${outcome}`).join(', '));
  process.exitCode = problems.length > 0 ? 1 : 0;
  return undefined;
}

/** Each report by itself; a point needs a test in one of them. */
function checkFiles(points, files) {
  const all = files.map((file) => [file, readReport(file)]);
  const tests = new Map(points.map(({ id }) => [id, all.flatMap(([, report]) => report.tests.get(id) ?? [])]));
  return [
    ...all.flatMap(([file, { broken }]) => broken.map((line) => `${basename(file)}: ${line}`)),
    ...points
      .filter(({ id }) => tests.get(id).length === 0 && !WITHOUT_TEST.has(id))
      .map(({ id, text }) => `${id} ${text}: no test, and no reason for that`),
    ...[...tests.values()]
      .flat()
      .filter(({ status }) => status === 'failed')
      .map(({ file, title }) => `failed: ${file}: ${title}`),
  ];
}

await main();
