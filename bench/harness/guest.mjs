// Guests of a few bytes in real mode, the same bytes as in bench/c/common.h.

/** A VM with 64 KiB at gpa 0, `code` at 0x1000, and a vCPU that stands there. `close()` takes all of it away. */
export function makeGuest({ Kvm, HostMapping }, code, { vcpus = 1 } = {}) {
  const kvm = Kvm.open();
  const vm = kvm.createVm();
  const ram = HostMapping.anonymous(0x10000);
  ram.write(0x1000, Uint8Array.from(code));
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 0x10000, mapping: ram });
  const made = [];
  for (let id = 0; id < vcpus; id++) made.push(startAt(vm.createVcpu(id), 0x1000n));
  return { kvm, vm, ram, vcpu: made[0], vcpus: made, close: () => kvm.close() };
}

/** Real mode, segment bases 0, registers 0. */
export function startAt(vcpu, rip) {
  const sregs = vcpu.getSregs();
  const flat = (segment) => ({ ...segment, base: 0n, selector: 0 });
  vcpu.setSregs({ ...sregs, cs: flat(sregs.cs), ds: flat(sregs.ds), es: flat(sregs.es) });
  vcpu.updateRegs({ rip, rflags: 2n });
  return vcpu;
}
