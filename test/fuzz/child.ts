/** The process in which seeds are played: what goes wrong here, a crash included, ends this process and no other. */
import { openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { Kvm, KvmSystemError } from '../../lib/index.ts';
import type { VmTypeName } from '../../lib/index.ts';
import { argumentSeed } from './argument-run.ts';
import type { Reporter } from './argument-run.ts';
import { stateSeed } from './state-run.ts';
import type { Signatures } from './signatures.ts';
import { FuzzerError } from './values.ts';

export interface Task {
  /** `'state'` plays seeds for some seconds, `'arguments'` so many seeds. */
  readonly mode: 'arguments' | 'state';
  readonly seconds?: number;
  readonly first: number;
  readonly seeds: number;
  readonly calls: number;
  /** Goes on after what is wrong, and lists each once. */
  readonly all?: boolean;
  /** Where the call in progress is noted. */
  readonly progress: string;
  readonly signatures: string;
}

// Should the guards have a hole, this process goes before any other on the host.
writeFileSync('/proc/self/oom_score_adj', '1000');

const task = JSON.parse(process.argv[2]!) as Task;
const gc = (globalThis as { gc?: () => void }).gc!;
const progress = openSync(task.progress, 'w');
const WIDTH = 2048;
const line = Buffer.alloc(WIDTH, 0x20);

const complaints = new Map<string, string>();

const reporter: Reporter = {
  gc,
  ...(task.all === true
    ? { collect: (text) => void complaints.set(text.replace(/^[^]*?\n|\d+|\n[^]*$/g, ''), text) }
    : {}),
  at(seed, call, text) {
    line.fill(0x20);
    line.write(`seed ${seed}, call ${call}: ${text}`.slice(0, WIDTH));
    writeSync(progress, line, 0, WIDTH, 0);
  },
};

function fail(error: unknown): never {
  writeSync(2, `${error instanceof Error ? error.stack : String(error)}\n`);
  process.exit(1);
}

for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
  process.on(event, (error: unknown) => {
    if (error instanceof FuzzerError) return;
    fail(new Error(`${event} at ${line.toString().trim()}\n  ${error instanceof Error ? error.stack : String(error)}`));
  });
}

/** The one with private memory, where there is one. */
function vmType(): VmTypeName {
  const kvm = Kvm.open();
  try {
    return kvm.vmTypes().includes('sw-protected') ? 'sw-protected' : 'default';
  } finally {
    kvm.close();
  }
}

/** The thread that ends runs by their time-outs is made for the first of them. */
function startWatchdog(): void {
  const kvm = Kvm.open();
  try {
    kvm.createVm().createVcpu(0).runSync({ timeoutMs: 1 });
  } catch (error) {
    // There is no memory to run in, and not every KVM makes an exit of that.
    if (!(error instanceof KvmSystemError)) throw error;
  } finally {
    kvm.close();
  }
}

// What the process holds for good is there before anything is counted: threads of the pool, the addon.
await Promise.all(Array.from({ length: 8 }, () => readFile('/proc/self/status')));
startWatchdog();
const signatures = JSON.parse(readFileSync(task.signatures, 'utf8')) as Signatures;
let reached = 0;
let seeds = 0;
try {
  const type = vmType();
  const until = Date.now() + (task.seconds ?? Infinity) * 1000;
  for (; seeds < task.seeds && Date.now() < until; seeds++) {
    const seed = task.first + seeds;
    if (task.mode === 'state') await stateSeed(seed, task.calls, type, reporter);
    else reached += await argumentSeed(seed, task.calls, signatures, reporter);
  }
} catch (error) {
  fail(error);
}
if (complaints.size > 0) fail([...complaints.values()].join('\n'));
writeSync(1, JSON.stringify({ seeds, calls: seeds * task.calls, reached }));
process.exit(0);
