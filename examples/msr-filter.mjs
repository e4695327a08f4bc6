// A guest's RDMSR and WRMSR come to this program and are answered here; an MSR that is refused gives the guest a #GP.
// Exit code 2 where KVM cannot filter MSRs or cannot hand them to user space.
import { HostMapping, Kvm, refuseMsr } from 'node-kvm';

const [ANSWERED, KEPT, REFUSED] = [0x174, 0x175, 0x176];
const EXIT_FILTER = 4n; // KVM_MSR_EXIT_REASON_FILTER
const rdmsr = [0x0f, 0x32];
const wrmsr = [0x0f, 0x30];
const show = [0xe7, 0x10]; //                                     out 0x10, ax
const select = (msr) => [0x66, 0xb9, msr & 0xff, msr >> 8, 0, 0]; // mov ecx, msr
// prettier-ignore
const code = [
  ...select(ANSWERED), ...rdmsr, ...show,
  ...select(KEPT), 0x66, 0xb8, 0x34, 0x12, 0, 0, 0x66, 0x31, 0xd2, ...wrmsr, // mov eax, 0x1234; xor edx, edx; wrmsr
  0x66, 0x31, 0xc0, ...rdmsr, ...show, //                         xor eax, eax; rdmsr
  ...select(REFUSED), ...rdmsr, ...show,
  0xf4, //                                                        hlt: not reached
];
const handler = [0xe6, 0x13, 0xf4]; //                            #GP: out 0x13, al; hlt

const kvm = Kvm.open();
const lacking = ['KVM_CAP_X86_MSR_FILTER', 'KVM_CAP_X86_USER_SPACE_MSR'].filter((cap) => kvm.checkExtension(cap) === 0);
if (lacking.length > 0) {
  console.error(`This KVM has no ${lacking.join(' and no ')}`);
  process.exit(2);
}
const vm = kvm.createVm();
vm.enableUserSpaceMsr(EXIT_FILTER);
// Three MSRs from ANSWERED on, none allowed; all others as KVM has them.
vm.setMsrFilter({ default: 'allow', ranges: [{ base: ANSWERED, count: 3, bitmap: new Uint8Array(8) }] });
const ram = HostMapping.anonymous(0x10000);
ram.write(0x1000, Uint8Array.from(code));
ram.write(0x1200, Uint8Array.from(handler));
ram.write(13 * 4, Uint8Array.of(0x00, 0x12, 0, 0));
vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 0x10000, mapping: ram });
const vcpu = vm.createVcpu(0);
const sregs = vcpu.getSregs();
vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
vcpu.updateRegs({ rip: 0x1000n, rflags: 2n, rsp: 0x8000n });

const values = new Map([[ANSWERED, 0xcafen]]);
const hex = (value) => `0x${value.toString(16)}`;
for (;;) {
  const exit = vcpu.runSync({ timeoutMs: 10_000 });
  if (exit.reason === 'rdmsr' && values.has(exit.index)) {
    exit.data[0] = values.get(exit.index);
    console.log(`the guest reads MSR ${hex(exit.index)} (${exit.cause}): answered with ${hex(exit.data[0])}`);
  } else if (exit.reason === 'wrmsr' && exit.index === KEPT) {
    values.set(exit.index, exit.data[0]);
    console.log(`the guest writes ${hex(exit.data[0])} to MSR ${hex(exit.index)} (${exit.cause}): kept here`);
  } else if (exit.reason === 'rdmsr' || exit.reason === 'wrmsr') {
    refuseMsr(exit);
    console.log(`the guest tries MSR ${hex(exit.index)} (${exit.cause}): refused`);
  } else if (exit.reason === 'io' && exit.port === 0x10) {
    console.log(`  and has ${hex(exit.data[0] | (exit.data[1] << 8))}`);
  } else if (exit.reason === 'io' && exit.port === 0x13) {
    console.log('  and has a #GP');
    break;
  } else {
    throw new Error(`unexpected exit: ${exit.reason}`);
  }
}
kvm.close();
