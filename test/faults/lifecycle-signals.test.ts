/** Exceptions, signals and children of the process while a vCPU runs. */
import { describe, expect } from 'vitest';
import { inLab, kvmTest } from '../kvm/support.ts';
import type { Need } from '../kvm/support.ts';
import { APART, clean, start } from './support.ts';

/** Node's own report of an uncaught exception, and nothing beside it. */
const TRACE = /^(node:|file:).*:\d+\n.*\n *\^+\n\nError: by design\n( {4}at .*\n)+\nNode\.js v\d.*\n$/;
/** For one that is thrown while another is handled, Node 20 prints the second alone. */
const THROWS: readonly (readonly [stage: string, code: number, needs?: readonly Need[]])[] = [
  ['throwInExitHandler', 1],
  ['throwAfterRunSync', 1],
  ['throwBesideRun', 1],
  ['throwInWait', 1],
  ['throwInConversion', 1, ['private-memory']],
  ['throwInHandlerOfThat', 7],
];

describe('an uncaught exception', () => {
  for (const [stage, code, needs = []] of THROWS) {
    if (inLab && needs.length === 0 && code === 1 && stage !== 'throwInExitHandler') continue;
    kvmTest(`ends the process as in any program: ${stage}`, { needs, ...APART }, async () => {
      const end = await (await start('signals', stage)).ended;
      expect({ code: end.code, signal: end.signal }).toEqual({ code, signal: null });
      expect(end.stderr).toMatch(TRACE);
    });
  }

  kvmTest('that is handled leaves the vCPUs as they were, and everything can be closed', APART, async () => {
    expect(await clean('signals', 'uncaughtButHandled')).toEqual(['by design', 'closed']);
  });
});

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  describe(signal, () => {
    for (const stage of ['signalRun', 'signalRunSync'] as const) {
      if (inLab && (signal === 'SIGTERM') !== (stage === 'signalRunSync')) continue;

      kvmTest(`ends the process during ${stage === 'signalRun' ? 'run()' : 'runSync()'}`, APART, async () => {
        const { child, ended, heard } = await start('signals', stage, { input: [signal] });
        await heard('ready');
        child.kill(signal);
        expect(await ended).toEqual({ code: null, signal, stderr: '', said: ['ready'] });
      });

      kvmTest(`reaches a handler during ${stage === 'signalRun' ? 'run()' : 'runSync()'}`, APART, async () => {
        const { child, ended, heard } = await start('signals', stage, { input: [signal, 'handle'] });
        await heard('ready');
        // One that comes before the guest is entered ends no run: so again, until the run is over.
        const again = setInterval(() => child.kill(signal), 50);
        await heard(signal).finally(() => clearInterval(again));
        const { code, stderr, said, signal: by } = await ended;
        expect({ code, stderr, said, by }).toEqual({
          code: 0,
          stderr: '',
          said: ['ready', signal, 'closed'],
          by: null,
        });
      });
    }
  });
}

kvmTest('children of the process get none of its descriptors, and its guest does not notice them', APART, async () => {
  expect(await clean('signals', 'spawn', { input: [inLab ? '8' : '200'] })).toEqual(['closed']);
});
