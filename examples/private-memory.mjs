// One byte, seen from both sides: the guest puts it into private memory, and the host cannot find it.
import { GuestMemory, createVm } from 'node-kvm';

const SECRET = 0x3000n;
// prettier-ignore
const code = [
  0xa0, 0x00, 0x30, //             mov al, [0x3000]
  0xe6, 0x10, //                   out 0x10, al         what the host left here
  0xc6, 0x06, 0x00, 0x30, 0x77, // mov byte [0x3000], 0x77
  0xa0, 0x00, 0x30, //             mov al, [0x3000]
  0xe6, 0x10, //                   out 0x10, al         what the guest keeps here
  0xf4, //                         hlt
];

let vm;
try {
  vm = createVm({ type: 'auto', minimum: 'sw-protected' });
} catch (error) {
  console.error(error.message);
  process.exit(2);
}
const memory = new GuestMemory(vm);
memory.add({ gpa: 0n, size: 0x10000, private: true });
memory.write(0x1000n, Uint8Array.from(code));
memory.writeU8(SECRET, 0x41);

const vcpu = vm.createVcpu(0);
const sregs = vcpu.getSregs();
vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
vcpu.updateRegs({ rip: 0x1000n, rflags: 2n });

const hex = (byte) => `0x${byte.toString(16).padStart(2, '0')}`;
const first = await vcpu.run();
console.log(`shared:  the host wrote ${hex(memory.readU8(SECRET))}, the guest reads ${hex(first.data[0])}`);

memory.convert({ gpa: SECRET, size: 0x1000, to: 'private' });
const second = await vcpu.run();
console.log(
  `private: the guest wrote and reads ${hex(second.data[0])}, ` +
    `the host's side of the page holds ${hex(memory.readU8(SECRET, { side: 'shared' }))}`,
);
try {
  memory.readU8(SECRET);
} catch (error) {
  console.log(`         and memory.readU8() says: ${error.message}`);
}
memory.close();
vm.close();
