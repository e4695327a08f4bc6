/** Section 8: what can be said of TDX without its hardware. */
import { readFileSync } from 'node:fs';
import { describe, expect } from 'vitest';
import { withKvm } from '../kvm/support.ts';
import { pointTest } from './support.ts';

const hardware = /^flags\s*:.*\btdx_host_platform\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));
const lacks = hardware ? 'a processor without TDX' : undefined;

describe('8 TDX', () => {
  pointTest('8.1', { lacks }, () => withKvm((kvm) => expect(kvm.vmTypes()).not.toContain('tdx')));

  pointTest('8.2', { lacks }, () =>
    withKvm((kvm) => {
      expect(() => kvm.createVm('tdx')).toThrow(
        expect.objectContaining({
          name: 'KvmUnsupportedError',
          capability: 'KVM_CAP_VM_TYPES',
          cause: expect.objectContaining({ code: 'EINVAL' }),
        }),
      );
    }),
  );
});
