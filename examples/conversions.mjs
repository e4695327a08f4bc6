// The guest asks for eight pages to become private, writes to them, and gives them back, by KVM_HC_MAP_GPA_RANGE. The
// conversion engine sets the attributes and discards the side that is left behind, so nothing is held twice.
import { GuestMemory, createVm } from 'node-kvm';

const PAGES = 0x4000;
const amd = /AuthenticAMD|HygonGenuine/.test(
  await (await import('node:fs/promises')).readFile('/proc/cpuinfo', 'utf8'),
);
const hypercall = [0x0f, 0x01, amd ? 0xd9 : 0xc1]; // vmmcall or vmcall
// prettier-ignore
const mapGpaRange = (attributes) => [
  0x66, 0xb8, 12, 0, 0, 0, //                              mov eax, KVM_HC_MAP_GPA_RANGE
  0x66, 0xbb, PAGES & 0xff, PAGES >> 8, 0, 0, //           mov ebx, gpa
  0x66, 0xb9, 8, 0, 0, 0, //                               mov ecx, pages
  0x66, 0xba, attributes, 0, 0, 0, //                      mov edx, attributes
  ...hypercall, //
  0xe7, 0x10, //                                           out 0x10, ax
];
// prettier-ignore
const code = [
  ...mapGpaRange(0x10), //                                 private
  0xbf, 0x00, 0x40, //                                     mov di, 0x4000
  0xc6, 0x05, 0x55, //                               next: mov byte [di], 0x55
  0x81, 0xc7, 0x00, 0x10, //                               add di, 0x1000
  0x81, 0xff, 0x00, 0xc0, //                               cmp di, 0xc000
  0x75, 0xf3, //                                           jne next
  ...mapGpaRange(0x00), //                                 shared again
  0xf4, //                                                 hlt
];

let vm;
try {
  vm = createVm({ type: 'auto', minimum: 'sw-protected' });
} catch (error) {
  console.error(error.message);
  process.exit(2);
}
vm.enableExitHypercall();
const memory = new GuestMemory(vm, { discard: 'both' });
memory.add({ gpa: 0n, size: 0x10000, private: true });
memory.write(0x1000n, Uint8Array.from(code));
memory.fill(BigInt(PAGES), 0x8000, 0x41);
memory.on('conversion', ({ gpa, size, to, source, discarded }) => {
  console.log(
    `${size / 4096} pages at 0x${gpa.toString(16)} became ${to} (asked by ${source}), ${discarded} bytes given back`,
  );
});

const vcpu = vm.createVcpu(0);
const sregs = vcpu.getSregs();
vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
vcpu.updateRegs({ rip: 0x1000n, rflags: 2n });

for await (const exit of vcpu.exits()) {
  if (exit.reason === 'hypercall') {
    memory.handleHypercall(exit);
  } else if (exit.reason === 'io') {
    const { shared, private: own, doubled } = memory.account();
    console.log(
      `  private ${own.bytes} bytes, of them at most ${own.populated.atMost} held; ` +
        `shared side ${shared.populated} held; doubled at most ${doubled.atMost}`,
    );
  } else if (exit.reason === 'hlt') {
    break;
  } else {
    throw new Error(`unexpected exit: ${exit.reason}`);
  }
}
console.log(`the host finds ${memory.readU8(BigInt(PAGES))} in the first page: both old contents are gone`);
memory.close();
vm.close();
