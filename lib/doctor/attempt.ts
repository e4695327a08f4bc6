/** Does something, and files what came of it. */
import { KvmError } from '../errors.ts';
import type { CheckGroup, Findings } from './report.ts';

/** What an attempt throws where everything could be called and the outcome was not what it should be. */
export class Shortfall extends Error {}

/** `action` gives the evidence. A KvmError or a Shortfall is the evidence of a "no"; anything else is a mistake of ours. */
export function attempt(
  found: Findings,
  group: CheckGroup,
  id: string,
  title: string,
  remedy: string,
  action: () => string,
): boolean {
  try {
    found.yes(group, id, title, 'tried', action());
    return true;
  } catch (error) {
    if (!(error instanceof KvmError || error instanceof Shortfall)) throw error;
    found.no(group, id, title, 'tried', describeFailure(error), remedy);
    return false;
  }
}

/** `KVM_CREATE_VM: EINVAL` where a system call failed, otherwise what the error says. */
export function describeFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { syscall } = error as { syscall?: unknown };
  if (error instanceof KvmError && typeof syscall === 'string') return `${syscall}: ${error.code}`;
  return error.message.split('\n')[0] ?? error.name;
}
