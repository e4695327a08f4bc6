/** The process reaches its limits: an error with the kernel's name for it, nothing lost, and it goes on. */
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { inLab, kvmTest } from '../kvm/support.ts';
import { APART, clean } from './support.ts';

const limited = existsSync('/usr/bin/prlimit');

/** A program takes seconds to start in the lab: there, only what is about the kernel's descriptors and memory. */
function limitTest(name: string, run: () => unknown, alsoInLab = true): void {
  if (inLab && !alsoInLab) return;
  if (limited) kvmTest(name, APART, run);
  else it.skip(`${name} [needs prlimit]`);
}

// A check of UBSan's asks the kernel by a pipe whether memory can be read; without descriptors it takes that for a no.
const underUbsan = process.env['NODE_KVM_ADDON'] === 'asan';

describe.skipIf(underUbsan)('too many open files (needs a build without UBSan)', () => {
  limitTest('is EMFILE wherever one is opened, and what was open still works', async () => {
    const [said] = await clean('limits', 'files', { before: ['prlimit', '--nofile=80'] });
    expect(said!.split(', ')).toEqual([
      'Kvm.open',
      'createVm',
      'Eventfd.create',
      'createGuestMemfd',
      'createVcpu',
      'getStatsFd of the VM',
      'getStatsFd of the vCPU',
      'createDevice',
      'HostFile.memfd',
      'HostFile.open',
      'GuestMemory.add of a memfd',
    ]);
  });

  limitTest(
    'does not keep anybody from waiting for an eventfd',
    () => clean('limits', 'waitWithoutFiles', { before: ['prlimit', '--nofile=80'] }),
    false,
  );
});

describe('no more memory', () => {
  limitTest('for guest memory is ENOMEM (RLIMIT_AS), and there is room again when some is closed', () =>
    clean('limits', 'addressSpace'),
  );
  limitTest("for a vCPU's thread is EAGAIN, and the vCPU runs later", () => clean('limits', 'thread'), false);
  limitTest(
    'to lock hinders nothing (RLIMIT_MEMLOCK 0)',
    () => clean('limits', 'memlock', { before: ['prlimit', '--memlock=0'] }),
    false,
  );
});
