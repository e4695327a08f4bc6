// Maps 64 MiB of private memory before the guest touches it, with two vCPUs at once, and again, which costs next to
// nothing.
import { GuestMemory, KvmUnsupportedError, createVm } from 'node-kvm';

const MiB = 2 ** 20;
const size = 64 * MiB;

try {
  const vm = createVm({ type: 'auto', minimum: 'sw-protected' });
  const memory = new GuestMemory(vm);
  memory.add({ gpa: 0n, size, private: true });
  memory.convert({ gpa: 0n, size, to: 'private' });
  const vcpus = [vm.createVcpu(0), vm.createVcpu(1)];

  for (const round of ['first', 'again']) {
    const { bytes, calls, durationUs } = await memory.prefault({
      gpa: 0n,
      size,
      vcpus,
      chunk: 8 * MiB,
      onProgress: ({ bytes: done, total }) => {
        if (process.stderr.isTTY) process.stderr.write(`\r${round}: ${done / MiB} of ${total / MiB} MiB`);
      },
    });
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    console.log(`${round}: ${bytes / MiB} MiB in ${calls} calls, ${(durationUs / 1000).toFixed(1)} ms`);
  }
  const { populated } = memory.account().private;
  console.log(`the guest_memfd holds at least ${populated.atLeast / MiB} MiB`);
  memory.close();
  vm.close();
} catch (error) {
  if (!(error instanceof KvmUnsupportedError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
