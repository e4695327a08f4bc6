// The test command: every ring in turn, on the host and in the lab, then one list of what was skipped and one count.
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { coverageArgv, coverageEnv, coverageProblems } from './coverage.mjs';
import { sanitizerEnv, sanitizerReports, unnoticedFaults } from './sanitizers.mjs';
import { Results } from './test-results.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const vitest = join(root, 'node_modules/vitest/vitest.mjs');
const ci = /^(1|true)$/i.test(process.env.CI ?? '');
const minute = 60_000;

/** In the order in which they run: what is quick to fail comes first. */
const rings = {
  lint: () => commands('lint', [['scripts/lint.mjs']]),
  docs: () => commands('docs', [['scripts/docs.mjs']]),
  unit: unitRing,
  kvm: () => onHost('kvm on the host', 'kvm'),
  fuzz: fuzzRing,
  asan: () => sanitizerRing('asan'),
  tsan: () => sanitizerRing('tsan'),
  lab: labRing,
  debug: debugRing,
  conformance: conformanceRing,
  examples: () => hostRing('examples', 'examples'),
  bench: () => commands('bench', [['bench/run.mjs', '--quick', '--json', join(scratch, 'bench.json')]]),
  package: () => hostRing('package', 'package'),
};
const names = Object.keys(rings);
const usage = `usage: npm test [-- --ring ${names.join('|')} ...] [-- --install]
  --ring     only these rings (default: all)
  --install  let the lab install the Debian packages that it lacks (with CI=true it always does)`;

const { values } = parseArgs({
  options: {
    ring: { type: 'string', multiple: true },
    install: { type: 'boolean', default: ci },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  console.log(usage);
  process.exit(0);
}
const wanted = values.ring ?? names;
for (const ring of wanted) {
  if (names.includes(ring)) continue;
  console.error(`Expected one of ${names.join(', ')} for --ring but received ${ring}`);
  process.exit(64);
}

const scratch = mkdtempSync(join(tmpdir(), 'node-kvm-test-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
const results = new Results(root);
const unitCoverage = join(scratch, 'coverage of unit');
/** The reports of the kvm ring, by place, for the conformance ring. */
const reports = [];

const say = (text) => console.log(`\n== ${text}`);
const run = (argv, env = process.env) =>
  new Promise((resolve, reject) => {
    const child = spawn(argv[0], argv.slice(1), { cwd: root, stdio: 'inherit', env });
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
const vitestArgv = (projects, report, more = []) => [
  process.execPath,
  vitest,
  'run',
  ...projects.flatMap((project) => ['--project', project]),
  '--reporter=dot',
  '--reporter=json',
  `--outputFile.json=${report}`,
  ...more,
];

/** A ring that is no vitest project: each command is one thing that passes or fails. */
async function commands(name, list) {
  say(`ring ${name}`);
  const result = { passed: 0, failed: [] };
  for (const argv of list) {
    const exitCode = await run([process.execPath, ...argv]);
    if (exitCode === 0) result.passed++;
    else result.failed.push(`${argv.join(' ')} ended with exit code ${exitCode}`);
  }
  results.add(name, result);
}

async function hostRing(name, project, more) {
  say(`ring ${name}`);
  const report = join(scratch, `${project}.json`);
  results.addReport(name, report, await run(vitestArgv([project], report, more)));
  return report;
}

/** Needs nothing, so what it covers is the same on every host. */
async function unitRing() {
  await hostRing('unit', 'unit', coverageArgv(unitCoverage));
}

function refusal() {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return error.code;
  }
}

/** Runs a project on this host's KVM. What its kernel and processor offer is no choice of ours: a skip even in CI. */
async function onHost(name, project) {
  const refused = refusal();
  if (refused === undefined) {
    const report = await hostRing(name, project);
    if (project === 'kvm') reports.push(report);
  } else {
    results.add(name, { skipped: [`the whole ring: /dev/kvm cannot be opened (${refused})`] });
  }
}

const loadLab = () => import('../dist/lab/index.js');

/** Builds the lab where it is missing; false where that needs packages which nobody asked to have installed. */
async function labReady(name) {
  const lab = await loadLab();
  const missing = await lab.missingPackages();
  if (missing.length > 0 && !values.install) {
    const why =
      `the whole ring: the lab needs the Debian packages ${missing.join(' ')} ` +
      '("npx node-kvm lab build --install" installs them)';
    results.add(name, ci ? { failed: [why] } : { skipped: [why] });
    return false;
  }
  if (missing.length > 0 || (await lab.findLab()) === undefined) {
    await lab.buildLab({ install: values.install });
    results.add('the build of the lab', { passed: 1 });
  }
  return true;
}

/** Runs projects under the lab's kernel, where what only the lab can do is required rather than skipped. */
async function inLab(name, projects, { argv = [], env = {}, timeoutMs = 25 * minute, after = () => [] } = {}) {
  say(`ring ${name}`);
  try {
    if (!(await labReady(name))) return undefined;
    const shared = mkdtempSync(join(scratch, 'lab-'));
    const report = join(shared, 'report.json');
    const { LD_PRELOAD, ...variables } = typeof env === 'function' ? env(shared) : env;
    const lab = await loadLab();
    const { exitCode } = await lab.runInLab({
      // The lab takes no LD_ variable of the host's for its own.
      argv: [
        ...(LD_PRELOAD === undefined ? [] : ['/usr/bin/env', `LD_PRELOAD=${LD_PRELOAD}`]),
        ...vitestArgv(projects, report, typeof argv === 'function' ? argv(shared) : argv),
      ],
      cwd: root,
      env: { ...process.env, ...variables, NODE_KVM_REQUIRE: 'kvm,lab' },
      writable: [shared],
      hugePages: 8,
      timeoutMs,
      stdout: process.stdout,
      stderr: process.stderr,
    });
    results.addReport(name, report, exitCode, await after(shared));
    return report;
  } catch (error) {
    results.add(name, { failed: [`the lab could not be used: ${error.message}`] });
    return undefined;
  }
}

async function labRing() {
  const report = await inLab('kvm in the lab', ['kvm']);
  if (report !== undefined) reports.push(report);
  await hostRing('the lab itself', 'lab');
}

async function fuzzRing() {
  await onHost('fuzz on the host', 'fuzz');
  await inLab('fuzz in the lab', ['fuzz']);
}

/** The build of the addon that a ring needs; a ring without it has failed. */
async function built(name, build) {
  say(`the ${build} build`);
  const exitCode = await run([process.execPath, 'scripts/build-addon.mjs', '--build', build]);
  if (exitCode === 0) results.add(`the ${build} build`, { passed: 1 });
  else results.add(name, { failed: [`its addon could not be built (exit code ${exitCode})`] });
  return exitCode === 0;
}

/** What the host's kernel may lack, and every call that the addon makes: the part of the kvm ring for a slow place. */
const core = ['test/native', 'test/kvm/conversion', 'test/kvm/guest-memfd', 'test/kvm/memory', 'test/kvm/prefault'];

/** A sanitizer finds what it finds in the first second of a stress test; the plain rings look for what is rare. */
const briefly = { NODE_KVM_STRESS_SECONDS: '1' };

/** The kvm ring on an addon that the compiler has watched; in the lab where there is no KVM here. */
async function sanitizerRing(kind) {
  if (!(await built(kind, kind))) return;
  const unnoticed = unnoticedFaults(kind, scratch);
  results.add(`${kind} reports planted faults`, unnoticed.length === 0 ? { passed: 1 } : { failed: unnoticed });
  if (refusal() === undefined) {
    say(`ring ${kind} on the host`);
    const report = join(scratch, `${kind}.json`);
    const found = join(scratch, `${kind}-reports`);
    const exitCode = await run(vitestArgv(['kvm'], report), { ...sanitizerEnv(kind, found), ...briefly });
    results.addReport(`${kind} on the host`, report, exitCode, sanitizerReports(found));
    if (kind !== 'asan') return;
  }
  // Private memory and pre-fault are in the lab alone. What several threads do there is the same as here.
  await inLab(`${kind} in the lab`, ['kvm'], {
    argv: refusal() === undefined ? core : ['test/native', 'test/kvm'],
    env: (shared) => ({ ...sanitizerEnv(kind, join(shared, 'found')), ...briefly }),
    after: (shared) => sanitizerReports(join(shared, 'found')),
  });
}

/**
 * The tests of handles and addon on the debug build, in the lab, so that what they cover does not depend on this host's
 * KVM; what the units cover is added. Not those of faults and conformance: they cover little more, and take longer than
 * all others.
 */
async function debugRing() {
  if (!wanted.includes('unit')) await unitRing();
  if (!(await built('debug', 'debug'))) return;
  const covered = (shared) => join(shared, 'coverage of kvm');
  await inLab('debug, with coverage', ['kvm'], {
    argv: (shared) => ['test/native', 'test/kvm', ...coverageArgv(covered(shared))],
    env: coverageEnv,
    after: (shared) => coverageProblems(shared, [unitCoverage, covered(shared)]),
    timeoutMs: 30 * minute,
  });
}

/** Each point of the kernel's own tests has its tests, and they passed, wherever the kvm ring ran just now. */
async function conformanceRing() {
  const present = reports.filter((report) => existsSync(report));
  if (present.length > 0) await commands('conformance', [['scripts/conformance.mjs', '--check', ...present]]);
  else
    results.add('conformance', { [ci ? 'failed' : 'skipped']: ['the whole ring: neither ring kvm nor ring lab ran'] });
}

for (const name of names) {
  if (wanted.includes(name)) await rings[name]();
}
say('result');
process.exitCode = results.print();
