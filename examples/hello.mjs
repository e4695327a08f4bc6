// A guest of 15 bytes prints a message, one port write at a time.
import { HostMapping, Kvm } from 'node-kvm';

// prettier-ignore
const code = [
  0xbe, 0x00, 0x11, 0xba, 0xf8, 0x03, //             mov si, 0x1100; mov dx, 0x3f8
  0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // next: lodsb; test al, al; jz done; out dx, al; jmp next
  0xf4, //                                           done: hlt
];
const kvm = Kvm.open();
const vm = kvm.createVm();
const ram = HostMapping.anonymous(0x10000);
ram.write(0x1000, Uint8Array.from(code));
ram.write(0x1100, Buffer.from('hello from the guest\n\0'));
vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 0x10000, mapping: ram });
const vcpu = vm.createVcpu(0);
const sregs = vcpu.getSregs();
vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
vcpu.updateRegs({ rip: 0x1000n, rflags: 2n });
for await (const exit of vcpu.exits()) {
  if (exit.reason === 'io' && exit.port === 0x3f8) process.stdout.write(Buffer.from(exit.data));
  else if (exit.reason === 'hlt') break;
  else throw new Error(`unexpected exit: ${exit.reason}`);
}
kvm.close();
