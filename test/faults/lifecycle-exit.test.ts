/** The process ends at every stage, with everything open: its exit code is its own and stderr stays empty. */
import { describe } from 'vitest';
import { inLab, kvmTest } from '../kvm/support.ts';
import type { Need } from '../kvm/support.ts';
import { APART, clean } from './support.ts';

const NEEDS: Record<string, readonly Need[]> = {
  dirtyRing: ['KVM_CAP_DIRTY_LOG_RING_ACQ_REL'],
  guestMemfd: ['KVM_CAP_GUEST_MEMFD'],
  privateMemory: ['private-memory'],
  conversionPending: ['private-memory'],
  allocationPending: ['private-memory'],
  prefaultPending: ['private-memory', 'KVM_CAP_PRE_FAULT_MEMORY'],
  exitInConversion: ['private-memory'],
};

const QUIET = [
  'open',
  'createVm',
  'memory',
  'memfd',
  'slot',
  'vcpu',
  'run',
  'ranApart',
  'pendingExit',
  'irqfd',
  'ioeventfd',
  'coalesced',
  'dirtyRing',
  'stats',
  'guestMemfd',
  'privateMemory',
];
const BUSY = [
  'running',
  'runningForLong',
  'runningWithTimeout',
  'twoRunning',
  'eventfdWait',
  'exitsLoop',
  'exitInsideLoop',
  'exitInsideWait',
  'closeInExitHandler',
  'runInExitHandler',
  'advicePending',
  'workerRunning',
  'conversionPending',
  'allocationPending',
  'prefaultPending',
  'exitInConversion',
  'everything',
];
/** A program takes seconds to start in the lab: there, what the host has not, and all the rest at once. */
const IN_LAB = new Set([...Object.keys(NEEDS), 'everything', 'workerRunning', 'closeInExitHandler', 'exitInsideLoop']);

function stages(names: readonly string[], how: string): void {
  for (const name of names) {
    if (inLab && !(how === 'exit' ? IN_LAB.has(name) : name === 'privateMemory')) continue;
    kvmTest(name, { needs: NEEDS[name] ?? [], ...APART }, () => clean('exit', name, { input: [how] }));
  }
}

describe('process.exit after', () => stages([...QUIET, ...BUSY], 'exit'));
describe('an empty event loop after', () => stages(QUIET, 'end'));
