/** What KVM_RUN's failures mean. *KVM_RUN* */
import { getSystemErrorName } from 'node:util';
import { wrapSystemError } from '../../errors.ts';

const EHWPOISON = -133;

const HINTS: ReadonlyMap<number, string> = new Map([
  [
    -5,
    'the VM is dead: KVM found a bug in its own state, its encryption context was moved to another VM, or this ' +
      'process is not the one that made it. Nothing of this VM can be used any more',
  ],
  [
    -14,
    'the guest touched memory whose memslot names a host address that is not mapped, or not with that permission ' +
      '(exits for private memory arrive as memory-fault instead)',
  ],
  [
    -22,
    'the state that was set is inconsistent, sync registers hold a value that KVM refuses, the answer to the ' +
      'last exit is not one that KVM takes, or the encrypted VM was not initialised',
  ],
  [-12, 'the host is out of memory'],
  [-1, 'the state of the vCPU cannot run on this host'],
  [EHWPOISON, 'the page behind a guest address is poisoned by a hardware memory error'],
]);

/** The error for a KVM_RUN that failed with `code` (-errno) and is not an exit. */
export function runFailure(code: number, id: number, what = 'running'): unknown {
  const name = errnoName(code);
  const error = Object.assign(new Error(`KVM_RUN: ${name}`), { code: name, errno: code, syscall: 'KVM_RUN' });
  return wrapSystemError(error, { message: `KVM_RUN of vCPU ${id} (${what})`, hint: HINTS.get(code) });
}

/** The name of a negative errno. libuv does not know EHWPOISON. */
export function errnoName(code: number): string {
  if (code === EHWPOISON) return 'EHWPOISON';
  try {
    return getSystemErrorName(code);
  } catch {
    return `errno ${-code}`;
  }
}
