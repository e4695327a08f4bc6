// A debugger's three tools on a guest of 13 bytes: single steps, a hardware breakpoint, a software breakpoint.
// Exit code 0; what this KVM does not report is said. Exit code 2 where it has no KVM_CAP_SET_GUEST_DEBUG.
import { HostMapping, Kvm } from 'node-kvm';

const listing = [
  [0x1000, [0xb8, 0x03, 0x00], 'mov ax, 3'],
  [0x1003, [0x01, 0xc3], 'add bx, ax'],
  [0x1005, [0x48], 'dec ax'],
  [0x1006, [0x75, 0xfb], 'jnz 0x1003'],
  [0x1008, [0x89, 0x1e, 0x00, 0x20], 'mov [0x2000], bx'],
  [0x100c, [0xf4], 'hlt'],
];
const STORE = 0x1008;
const HANDLER = 0x1100;
const INT3 = 0xcc;

const kvm = Kvm.open();
if (kvm.checkExtension('KVM_CAP_SET_GUEST_DEBUG') === 0) {
  console.error('This KVM has no KVM_CAP_SET_GUEST_DEBUG');
  process.exit(2);
}
const vm = kvm.createVm();
const ram = HostMapping.anonymous(0x10000);
vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 0x10000, mapping: ram });
const memory = ram.view();
for (const [address, bytes] of listing) memory.set(bytes, address);
// Where the guest's own #DB and #BP go when KVM does not take them: to a hlt.
for (const vector of [1, 3]) memory.set([HANDLER & 0xff, HANDLER >> 8, 0, 0], vector * 4);
memory[HANDLER] = 0xf4;
const vcpu = vm.createVcpu(0);
const sregs = vcpu.getSregs();
const flat = { base: 0n, selector: 0 };
const hex = (value) => `0x${value.toString(16)}`;

function restart(debug) {
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, ...flat }, ss: { ...sregs.ss, ...flat } });
  vcpu.updateRegs({ rip: 0x1000n, rflags: 2n, rax: 0n, rbx: 0n, rsp: 0x8000n });
  vcpu.setGuestDebug(debug);
}
const run = () => vcpu.runSync({ timeoutMs: 5000 });
const registers = () => {
  const { rax, rbx } = vcpu.getRegs();
  return `ax ${rax}, bx ${rbx}`;
};

/** What came instead of the debug exit. */
function missed(what, exit) {
  const { rip } = vcpu.getRegs();
  const where = rip === BigInt(HANDLER + 1) ? "the guest's own handler got it" : `the guest ran on to ${hex(rip)}`;
  console.log(`${what}: not reported by this KVM (${exit.reason}; ${where})`);
}

console.log('single steps:');
restart({ singlestep: true });
let exit;
let next;
do {
  exit = run();
  if (exit.reason !== 'debug') throw new Error(`unexpected exit: ${exit.reason}`);
  next = listing.find(([address]) => BigInt(address) === exit.pc)[2];
  console.log(`  ${hex(exit.pc)}  ${next.padEnd(18)} ${registers()}`);
} while (next !== 'hlt');

const hardware = `hardware breakpoint at ${hex(STORE)}`;
restart({ useHwBp: true, addresses: [BigInt(STORE)] });
exit = run();
if (exit.reason === 'debug') console.log(`${hardware}: hit, ${registers()}, dr6 bit 0 is ${exit.dr6 & 1n}`);
else missed(hardware, exit);

const software = `software breakpoint at ${hex(STORE)}`;
memory[STORE] = INT3;
restart({ useSwBp: true });
exit = run();
memory[STORE] = 0x89;
if (exit.reason === 'debug' && exit.exception === 3) {
  console.log(`${software}: hit, ${registers()}`);
  vcpu.setGuestDebug({});
  console.log(`the instruction put back, the guest goes on: ${run().reason}, and stored ${memory[0x2000]}`);
} else {
  missed(software, exit);
}
kvm.close();
