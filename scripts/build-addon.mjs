// Builds the native addon: the `install` script of the package, and `npm run build:addon` in a checkout. Quiet where
// all goes well or nothing is to do.
//
//   --build   asan, tsan or debug: a build for the tests, into build/NAME, beside the one that everybody loads.
//             NODE_KVM_ADDON=NAME has the package load it (docs/testing.md)
//   --force   also where the addon is newer than its sources
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const builds = ['asan', 'tsan', 'debug'];
const { values: options } = parseArgs({
  options: { build: { type: 'string' }, force: { type: 'boolean', default: false } },
});
if (options.build !== undefined && !builds.includes(options.build)) {
  console.error(`Expected one of ${builds.join(', ')} for --build but received ${options.build}`);
  process.exit(64);
}
const output = join(root, 'build', options.build ?? 'Release');
const addon = join(output, 'node_kvm.node');
const stamp = join(output, 'node_kvm.built-for');
// What a build depends on beside the sources.
const builtFor = `${process.execPath} ${process.version} ${process.arch}`;

function fail(message) {
  console.error(`node-kvm: ${message}`);
  process.exit(1);
}

function modified(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs;
}

function isUpToDate() {
  const built = modified(addon);
  if (built === undefined || !existsSync(stamp) || readFileSync(stamp, 'utf8') !== builtFor) return false;
  const native = join(root, 'native');
  const sources = [join(root, 'binding.gyp'), ...readdirSync(native).map((name) => join(native, name))];
  return sources.every((source) => modified(source) <= built);
}

function findOnPath(names) {
  const directories = (process.env.PATH ?? '').split(delimiter).filter((directory) => directory !== '');
  return names.some((name) => directories.some((directory) => existsSync(join(directory, name))));
}

function requireTools() {
  const tools = [
    { names: [process.env.CXX, 'g++', 'c++'].filter(Boolean), what: 'a C++20 compiler', debian: 'g++' },
    { names: ['make', 'gmake'], what: 'make', debian: 'make' },
    { names: [process.env.PYTHON, 'python3', 'python'].filter(Boolean), what: 'Python 3', debian: 'python3' },
  ];
  const missing = tools.filter(
    ({ names }) => !names.some((name) => (name.includes('/') ? existsSync(name) : findOnPath([name.split(' ')[0]]))),
  );
  if (missing.length === 0) return;
  fail(
    `the native addon cannot be built: ${missing.map(({ what }) => what).join(' and ')} not found. On Debian and ` +
      `Ubuntu: apt-get install ${missing.map(({ debian }) => debian).join(' ')}`,
  );
}

/** npm names its own node-gyp in the environment of scripts; elsewhere it is looked for where npm itself is. */
function findNodeGyp() {
  const candidates = [process.env.npm_config_node_gyp];
  const bundled = 'node_modules/node-gyp/bin/node-gyp.js';
  if (process.env.npm_execpath) candidates.push(join(dirname(process.env.npm_execpath), '..', bundled));
  const prefix = join(dirname(realpathSync(process.execPath)), '..');
  for (const place of ['lib/node_modules/npm', 'share/nodejs/npm', 'lib/node_modules/node-gyp/../npm']) {
    candidates.push(join(prefix, place, bundled));
  }
  const npmRoot = spawnSync('npm', ['root', '-g'], { encoding: 'utf8' });
  if (npmRoot.status === 0) {
    const globals = npmRoot.stdout.trim();
    candidates.push(join(globals, 'npm', bundled), join(globals, 'node-gyp/bin/node-gyp.js'));
  }
  candidates.push('/usr/share/nodejs/node-gyp/bin/node-gyp.js');
  const found = candidates.find((candidate) => candidate !== undefined && existsSync(candidate));
  if (found !== undefined) return found;
  return fail(
    'node-gyp was not found beside npm. Run "npm rebuild node-kvm", or install node-gyp with "npm i -g node-gyp"',
  );
}

/** The headers of the very node that runs this, where it brought them along: then a build needs no network. */
function nodeDirectory() {
  const prefix = join(dirname(realpathSync(process.execPath)), '..');
  const header = join(prefix, 'include/node/node_version.h');
  if (!existsSync(header)) return undefined;
  const text = readFileSync(header, 'utf8');
  const part = (name) => new RegExp(`#define NODE_${name}_VERSION (\\d+)`).exec(text)?.[1];
  const version = `v${part('MAJOR')}.${part('MINOR')}.${part('PATCH')}`;
  return version === process.version ? prefix : undefined;
}

if (process.platform !== 'linux' || process.arch !== 'x64') {
  console.log(
    `node-kvm: the native addon is for Linux on x86-64 and was not built on ${process.platform} ${process.arch}.`,
  );
  process.exit(0);
}
if (!options.force && isUpToDate()) process.exit(0);

requireTools();
try {
  createRequire(import.meta.url).resolve('node-addon-api');
} catch {
  fail('the package node-addon-api is missing: install the dependencies first ("npm install")');
}

/** node-gyp builds below the folder of binding.gyp: a named build gets a folder of its own, with the sources linked in. */
function prepareTree() {
  if (options.build === undefined) {
    // Not "rebuild", which would begin with taking all of build/ away.
    for (const name of ['Makefile', 'config.gypi', 'Release'])
      rmSync(join(root, 'build', name), { recursive: true, force: true });
    return root;
  }
  const tree = join(output, 'tree');
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(tree, { recursive: true });
  copyFileSync(join(root, 'binding.gyp'), join(tree, 'binding.gyp'));
  symlinkSync(join(root, 'native'), join(tree, 'native'));
  return tree;
}

const tree = prepareTree();
const nodedir = nodeDirectory();
const argv = [findNodeGyp(), 'configure', 'build', '--release', '--jobs=2'];
if (nodedir !== undefined) argv.push(`--nodedir=${nodedir}`);
const build = spawnSync(process.execPath, argv, {
  cwd: tree,
  encoding: 'utf8',
  maxBuffer: 1 << 28,
  env: { ...process.env, NODE_KVM_BUILD: options.build ?? '' },
});
const built = join(tree, 'build/Release/node_kvm.node');
if (build.error !== undefined || build.status !== 0 || !existsSync(built)) {
  process.stderr.write(`${build.stdout ?? ''}${build.stderr ?? ''}`);
  fail(
    build.error?.message ?? `the native addon could not be built (node-gyp ended with ${build.status ?? build.signal})`,
  );
}
if (built !== addon) {
  // Not over a file that some process has mapped.
  copyFileSync(built, `${addon}.new`);
  renameSync(`${addon}.new`, addon);
}
writeFileSync(stamp, builtFor);
