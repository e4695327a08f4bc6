// What KVM counts about a VM and a vCPU, as the kernel describes it itself, and what a run added to it.
// Exit code 2 where this KVM has no statistics (before Linux 5.14).
import { HostMapping, Kvm } from 'node-kvm';

const EXITS = 1000;
// prettier-ignore
const code = [
  0xb9, EXITS & 0xff, EXITS >> 8, //       mov cx, EXITS
  0xe6, 0x10, //                     next: out 0x10, al
  0x88, 0x0e, 0x00, 0x20, //               mov [0x2000], cl
  0xe2, 0xf8, //                           loop next
  0xf4, //                                 hlt
];
const kvm = Kvm.open();
if (kvm.checkExtension('KVM_CAP_BINARY_STATS_FD') === 0) {
  console.error('This KVM has no KVM_CAP_BINARY_STATS_FD');
  process.exit(2);
}
const vm = kvm.createVm();
const ram = HostMapping.anonymous(0x10000);
ram.write(0x1000, Uint8Array.from(code));
vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 0x10000, mapping: ram });
const vcpu = vm.createVcpu(0);
const sregs = vcpu.getSregs();
vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
vcpu.updateRegs({ rip: 0x1000n, rflags: 2n });

// A histogram counts how often a value fell into each bucket: their sum is how often there was one.
const total = (value) => (Array.isArray(value) ? value.reduce((sum, bucket) => sum + bucket, 0n) : value);
const scale = ({ base, exponent, unit }) => (exponent === 0 ? unit : `${base}^${exponent} ${unit}`);

const sources = [vm.getStatsFd(), vcpu.getStatsFd()];
const before = sources.map((stats) => stats.read());
let exits = 0;
while (vcpu.runSync().reason === 'io') exits++;
const after = sources.map((stats) => stats.read());

sources.forEach((stats, index) => {
  const changed = stats.descriptors.filter(({ name }) => total(after[index][name]) !== total(before[index][name]));
  console.log(`${stats.id.replace(/\d+/, '<pid>')}: ${stats.descriptors.length} statistics, ${changed.length} changed`);
  for (const descriptor of changed) {
    const [old, now] = [before, after].map((values) => total(values[index][descriptor.name]));
    const unit = scale(descriptor);
    const change = `${now > old ? '+' : ''}${now - old}`;
    console.log(
      `  ${descriptor.name.padEnd(32)} ${String(now).padStart(12)} ${change.padStart(12)}  ` +
        `${descriptor.type}${unit === 'none' ? '' : `, ${unit}`}`,
    );
  }
});
console.log(`${exits} port exits came here; in io_exits this KVM counted ${after[1].io_exits - before[1].io_exits}`);
kvm.close();
