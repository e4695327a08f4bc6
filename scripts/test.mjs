// The test command: every ring in turn, on the host and in the lab, then one list of what was skipped and one count.
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const vitest = join(root, 'node_modules/vitest/vitest.mjs');
const ci = /^(1|true)$/i.test(process.env.CI ?? '');
const rings = ['unit', 'kvm', 'lab', 'examples', 'package'];
const usage = `usage: npm test [-- --ring ${rings.join('|')} ...] [-- --install]
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
const wanted = values.ring ?? rings;
for (const ring of wanted) {
  if (rings.includes(ring)) continue;
  console.error(`Expected one of ${rings.join(', ')} for --ring but received ${ring}`);
  process.exit(64);
}

const scratch = mkdtempSync(join(tmpdir(), 'node-kvm-test-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
/** @type {{ ring: string, passed: number, failed: string[], skipped: string[] }[]} */
const results = [];
const withoutReport = (ring, { failed = [], skipped = [] }) => results.push({ ring, passed: 0, failed, skipped });

const say = (text) => console.log(`\n== ${text}`);
const run = (argv) =>
  new Promise((resolve, reject) => {
    const child = spawn(argv[0], argv.slice(1), { cwd: root, stdio: 'inherit' });
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
const vitestArgv = (project, report) =>
  [process.execPath, vitest, 'run', '--project', project, '--reporter=dot', '--reporter=json', `--outputFile.json=${report}`];

/** Takes the runner's own report as the only witness: a run that left none has failed. */
function record(ring, file, exitCode) {
  if (!existsSync(file)) {
    withoutReport(ring, { failed: [`the ring ended with exit code ${exitCode} and left no report`] });
    return;
  }
  const result = { ring, passed: 0, failed: [], skipped: [] };
  results.push(result);
  for (const suite of JSON.parse(readFileSync(file, 'utf8')).testResults) {
    const where = relative(root, suite.name);
    if (suite.status === 'failed' && suite.assertionResults.every((test) => test.status !== 'failed')) {
      result.failed.push(`${where}: ${(suite.message ?? 'did not load').split('\n')[0]}`);
    }
    for (const test of suite.assertionResults) {
      const name = `${where} > ${test.fullName}`;
      if (test.status === 'passed') result.passed++;
      else if (test.status === 'failed') result.failed.push(name);
      else result.skipped.push(name);
    }
  }
  if (result.passed + result.failed.length + result.skipped.length === 0) result.failed.push('no test was found');
  if (exitCode !== 0 && result.failed.length === 0) result.failed.push(`exit code ${exitCode}`);
}

async function hostRing(name, project) {
  say(`ring ${name}`);
  const report = join(scratch, `${project}.json`);
  record(name, report, await run(vitestArgv(project, report)));
}

function refusal(path) {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return error.code;
  }
}

/** Builds the lab where it is missing; false where that needs packages which nobody asked to have installed. */
async function labReady(lab) {
  const missing = await lab.missingPackages();
  if (missing.length > 0 && !values.install) {
    const why = `the whole ring: the lab needs the Debian packages ${missing.join(' ')} ` +
      '("npx node-kvm lab build --install" installs them)';
    withoutReport('kvm in the lab', ci ? { failed: [why] } : { skipped: [why] });
    return false;
  }
  if (missing.length > 0 || (await lab.findLab()) === undefined) await lab.buildLab({ install: values.install });
  return true;
}

/** The kvm ring under the lab's kernel, where what only the lab can do is required rather than skipped. */
async function labRing() {
  say('ring kvm in the lab');
  const lab = await import('../dist/lab/index.js');
  if (!(await labReady(lab))) return;
  const shared = mkdtempSync(join(scratch, 'lab-'));
  const report = join(shared, 'kvm.json');
  const { exitCode } = await lab.runInLab({
    argv: vitestArgv('kvm', report),
    cwd: root,
    env: { ...process.env, NODE_KVM_REQUIRE: 'kvm,lab' },
    writable: [shared],
    hugePages: 8,
    timeoutMs: 25 * 60_000,
    stdout: process.stdout,
    stderr: process.stderr,
  });
  record('kvm in the lab', report, exitCode);
  await hostRing('the lab itself', 'lab');
}

if (wanted.includes('unit')) await hostRing('unit', 'unit');
if (wanted.includes('kvm')) {
  const refused = refusal('/dev/kvm');
  if (refused === undefined) await hostRing('kvm on the host', 'kvm');
  else withoutReport('kvm on the host', { skipped: [`the whole ring: /dev/kvm cannot be opened (${refused})`] });
}
if (wanted.includes('lab')) {
  try {
    await labRing();
  } catch (error) {
    withoutReport('kvm in the lab', { failed: [`the lab could not be used: ${error.message}`] });
  }
}
if (wanted.includes('examples')) await hostRing('examples', 'examples');
if (wanted.includes('package')) await hostRing('package', 'package');

say('result');
const lines = (key) => results.flatMap((result) => result[key].map((line) => `  ${result.ring}: ${line}`));
for (const key of ['skipped', 'failed']) {
  if (lines(key).length > 0) console.log(`${key}:\n${lines(key).join('\n')}\n`);
}
for (const { ring, passed, failed, skipped } of results) {
  console.log(`${ring}: ${passed} passed, ${failed.length} failed, ${skipped.length} skipped`);
}
const passed = results.reduce((sum, result) => sum + result.passed, 0);
console.log(`\n${passed} passed, ${lines('failed').length} failed, ${lines('skipped').length} skipped`);
process.exitCode = lines('failed').length > 0 || passed === 0 ? 1 : 0;
