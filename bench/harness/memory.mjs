// What the memory benchmarks share.
import { Missing } from './bench.mjs';

export const MiB = 2 ** 20;
export const GiB = 2 ** 30;

/** A VM of a type with a GuestMemory over it; `close` ends both. Skips the benchmark where there is no such VM type. */
export function openVm({ Kvm, GuestMemory }, type, options = {}) {
  const kvm = Kvm.open();
  if (!kvm.vmTypes().includes(type)) {
    kvm.close();
    throw new Missing(`VM type ${type}`);
  }
  const vm = kvm.createVm(type);
  const memory = new GuestMemory(vm, options);
  return {
    kvm,
    vm,
    memory,
    close() {
      memory.close();
      kvm.close();
    },
  };
}

/** A vCPU in 32-bit code without paging, at `rip`. */
export function startFlat(vcpu, rip) {
  const sregs = vcpu.getSregs();
  const flat = {
    ...sregs.ds,
    base: 0n,
    limit: 0xffffffff,
    selector: 16,
    type: 3,
    present: true,
    dpl: 0,
    db: true,
    s: true,
    l: false,
    g: true,
  };
  const cs = { ...flat, selector: 8, type: 11 };
  vcpu.setSregs({ ...sregs, cs, ds: flat, es: flat, ss: flat, fs: flat, gs: flat, cr0: sregs.cr0 | 1n });
  vcpu.updateRegs({ rip, rflags: 2n });
}

/**
 * Compares with a program of its own, which ends when the comparison is done. `warm`: so often both do it before: what
 * is done once in a few hundred microseconds is compiled late, and later still where compiling is emulated.
 */
export async function compareWith(bench, [program, ...argv], { open, warm = 0, ...options }) {
  const baseline = bench.program(program, argv.map(String));
  const opened = await open();
  try {
    if (warm > 0) {
      await opened.run(warm);
      await baseline.call('run', warm);
    }
    await bench.compare({
      ...options,
      ours: (n) => opened.run(n),
      baseline: async (n) => (await baseline.call('run', n))[0],
    });
  } finally {
    opened.close();
    await baseline.close();
  }
}
