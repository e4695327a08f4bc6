/** Kernel names of numbers, for messages. */
import * as ioctls from './ioctls.ts';

export const IOCTL_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(ioctls).map(([name, request]) => [request, name]),
);

/** `'KVM_GET_REGS'` for 0x8090ae81, and `'ioctl 0x...'` for a number that the table does not have. */
export function ioctlName(request: number): string {
  return IOCTL_NAMES.get(request) ?? `ioctl 0x${request.toString(16)}`;
}
