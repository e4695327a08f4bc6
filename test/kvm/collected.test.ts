/** A VM that nobody closed and nobody can reach is closed by the garbage collector, also one that ran. */
import { expect } from 'vitest';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { HostMapping, Kvm } from '../../lib/kvm/index.ts';
import type { VcpuExit } from '../../lib/kvm/index.ts';
import { native } from '../../lib/native.ts';
import { kvmTest } from './support.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** out dx, al, again and again. */
function run(how: 'run' | 'runSync'): Promise<VcpuExit> | VcpuExit {
  const vm = Kvm.open().createVm();
  const mapping = HostMapping.anonymous(4096);
  mapping.write(0, Uint8Array.of(0xee, 0xeb, 0xfd));
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 4096, mapping });
  const vcpu = vm.createVcpu(0);
  vcpu.updateSregs({ cs: { ...vcpu.getSregs().cs, base: 0n, selector: 0 } });
  vcpu.updateRegs({ rip: 0n, rflags: 2n });
  return vcpu[how]();
}

for (const how of ['run', 'runSync'] as const) {
  kvmTest(`a vCPU after ${how}() is collected, and held until then by the run alone`, async () => {
    const before = native().census();
    for (let i = 0; i < 20; i++) {
      const exit = run(how);
      collect();
      expect((await exit).reason).toBe('io');
    }
    await expect
      .poll(
        () => {
          collect();
          return native().census().threads + native().census().files;
        },
        { timeout: 10_000 },
      )
      .toBeLessThanOrEqual(before.threads + before.files + 8);
  });
}
