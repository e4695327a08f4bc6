import { defineConfig } from 'vitest/config';

// One process and one file at a time: the tests count descriptors, mappings and threads of the process, and under the
// lab's emulated CPU a second process costs more than it brings.
const onKvm = {
  setupFiles: ['test/kvm/setup.ts'],
  pool: 'forks' as const,
  isolate: false,
  fileParallelism: false,
  testTimeout: 60_000,
  hookTimeout: 60_000,
};

// The demo looks for its secret in all memory of the process, and the shadow memory of this sanitizer is terabytes.
const tooLarge = process.env['NODE_KVM_ADDON'] === 'tsan' ? ['test/kvm/demo-guest.test.ts'] : [];

// The rings, by need (docs/testing.md). `unit` needs nothing; `kvm` and `fuzz` need /dev/kvm and run on the host and
// again in the lab; `examples` runs each example as a program; `package` installs the packed tarball into an empty
// project.
export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts'], testTimeout: 20_000 } },
      {
        test: {
          name: 'kvm',
          include: ['kvm', 'native', 'conformance', 'faults'].map((room) => `test/${room}/**/*.test.ts`),
          exclude: tooLarge,
          ...onKvm,
        },
      },
      { test: { name: 'fuzz', include: ['test/fuzz/**/*.test.ts'], ...onKvm, testTimeout: 300_000 } },
      {
        test: {
          name: 'lab',
          // The lab's kernel brings the newest headers at hand, so the comparison with them belongs here.
          include: ['test/lab/**/*.test.ts', 'test/abi/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 300_000,
        },
      },
      {
        test: {
          name: 'examples',
          include: ['test/examples/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 120_000,
        },
      },
      { test: { name: 'package', include: ['test/package/**/*.test.ts'], testTimeout: 300_000, hookTimeout: 300_000 } },
    ],
  },
});
