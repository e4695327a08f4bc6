/** Capabilities by name or number. */
import { CAPS } from '../abi/index.ts';
import type { CapName } from '../abi/index.ts';
import { typeError, u32 } from '../arguments.ts';

/** The number of a capability given as either. A number that has no name here is passed on: newer kernels have more. */
export function capNumber(capability: number | CapName): number {
  if (typeof capability === 'number') return u32('capability', capability);
  const number: number | undefined =
    typeof capability === 'string' && Object.hasOwn(CAPS, capability) ? CAPS[capability] : undefined;
  if (number === undefined) {
    throw typeError('the name of a capability (KVM_CAP_...) or its number', 'capability', capability);
  }
  return number;
}
