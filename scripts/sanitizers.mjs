// How a run under a sanitizer is set up, shown to work, and read. Node itself is not instrumented: the addon is, and the
// runtime is preloaded into Node.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const faults = join(root, 'test/sanitizers');

const kinds = {
  asan: {
    flags: ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'],
    libraries: ['libasan.so', 'libubsan.so'],
    proofs: {
      overflow: /AddressSanitizer: heap-buffer-overflow/,
      undefined: /runtime error: signed integer overflow/,
      leak: /LeakSanitizer: detected memory leaks/,
    },
    env: (log) => ({
      // V8 has a handler of its own for SIGSEGV. A leak leaves the exit code alone: V8 has some (`ownLeaks`), and so do
      // the compilers that tests run.
      ASAN_OPTIONS: `detect_leaks=1:exitcode=0:abort_on_error=1:handle_segv=0:handle_sigbus=0:log_path=${log}`,
      // Its reports go to stderr beside libasan, whatever log_path says; each of them ends the process.
      UBSAN_OPTIONS: 'print_stacktrace=1',
    }),
  },
  tsan: {
    flags: ['-fsanitize=thread'],
    libraries: ['libtsan.so'],
    proofs: { race: /ThreadSanitizer: data race/ },
    env: (log) => ({
      // What V8 and libuv do among themselves is not ours; their locks are followed all the same.
      TSAN_OPTIONS:
        `ignore_noninstrumented_modules=1:history_size=4:handle_segv=0:handle_sigbus=0:log_path=${log}:` +
        `suppressions=${join(faults, 'tsan.supp')}:print_suppressions=0`,
    }),
  },
};

function gcc(argv) {
  const { error, status, stdout, stderr } = spawnSync('gcc', argv, { encoding: 'utf8' });
  if (error) throw error;
  if (status !== 0) throw new Error(`gcc failed: ${stderr}`);
  return stdout.trim();
}

/** The environment in which Node runs under the sanitizer. Each process leaves a file in `reports` for what it did. */
export function sanitizerEnv(kind, reports) {
  mkdirSync(reports, { recursive: true });
  const { libraries, env } = kinds[kind];
  return {
    ...process.env,
    NODE_KVM_ADDON: kind,
    LD_PRELOAD: libraries.map((name) => realpathSync(gcc([`-print-file-name=${name}`]))).join(' '),
    ...env(join(reports, kind)),
  };
}

/**
 * The leaks that are ours: allocated by the addon itself, not by Node on its behalf. V8 keeps pointers where the search
 * for leaks does not look, above all when a process ends while its workers run. A suppression by V8's names would take
 * ours as well, since V8 is below every call into the addon.
 */
function ownLeaks(text) {
  return text
    .split('\n\n')
    .filter((block) => {
      if (!/^(Direct|Indirect) leak of /.test(block.trim())) return false;
      const frames = block.split('\n').filter((line) => /^\s+#[1-9]/.test(line));
      const node = frames.findIndex((line) => line.includes(`(${realpathSync(process.execPath)}+`));
      const own = frames.findIndex((line) => /\/native\/|faulty\.cc/.test(line));
      return own >= 0 && (node < 0 || own < node);
    })
    .map((block) => block.trim().split('\n').slice(0, 4).join(' '));
}

/** One line for each thing that was reported. */
export function sanitizerReports(reports) {
  return readdirSync(reports).flatMap((name) => {
    const text = readFileSync(join(reports, name), 'utf8');
    if (text.includes('LeakSanitizer: detected memory leaks')) return ownLeaks(text);
    const lines = text.split('\n').filter((line) => /^SUMMARY: |runtime error: /.test(line));
    return lines.length > 0 ? lines : text.trim() === '' ? [] : [text.trim().split('\n')[0]];
  });
}

/** Commits each fault in a process of its own, and gives those that went unnoticed. */
export function unnoticedFaults(kind, scratch) {
  const { flags, proofs } = kinds[kind];
  const addon = join(scratch, `faulty-${kind}.node`);
  const headers = join(dirname(realpathSync(process.execPath)), '../include/node');
  gcc(['-shared', '-fPIC', '-g', '-O1', ...flags, `-I${headers}`, '-o', addon, join(faults, 'faulty.cc'), '-lstdc++']);
  return Object.entries(proofs).flatMap(([fault, expected]) => {
    const reports = mkdtempSync(join(scratch, `${fault}-`));
    const program = `require(${JSON.stringify(addon)}).${fault}()`;
    const { stderr } = spawnSync(process.execPath, ['-e', program], {
      env: sanitizerEnv(kind, reports),
      encoding: 'utf8',
    });
    const texts = readdirSync(reports).map((name) => readFileSync(join(reports, name), 'utf8'));
    const noticed =
      fault === 'leak'
        ? texts.some((text) => ownLeaks(text).length > 0)
        : [stderr, ...texts].some((text) => expected.test(text));
    return noticed ? [] : [fault];
  });
}
