// A doorbell and an interrupt, without an exit: the guest writes to an MMIO address that is bound to an eventfd, and is
// answered by an interrupt that another eventfd raises.
import { Eventfd, HostMapping, Kvm } from 'node-kvm';

const DOORBELL = 0xd0000000n;
const GSI = 5;
// prettier-ignore
const code = [
  // Program the first PIC: vectors from 0x20, only IRQ 5 open; then point interrupt vector 0x25 at the handler.
  0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, // ICW1 to ICW4
  0xb0, 0xdf, 0xe6, 0x21, //                               mov al, 0xdf; out 0x21, al
  0xc7, 0x06, 0x94, 0x00, 0x00, 0x12, //                   mov word [0x94], 0x1200
  0xc7, 0x06, 0x96, 0x00, 0x00, 0x00, //                   mov word [0x96], 0
  0xfb, //                                                 sti
  0x66, 0x67, 0xc7, 0x05, 0x00, 0x00, 0x00, 0xd0, 0x07, 0x00, 0x00, 0x00, // mov dword [0xd0000000], 7
  0xf4, //                                           wait: hlt
  0xeb, 0xfd, //                                           jmp wait
];
const handler = [0xb0, 0x21, 0xe6, 0x80, 0xcf]; //         mov al, '!'; out 0x80, al; iret

const kvm = Kvm.open();
const vm = kvm.createVm();
vm.createIrqchip();
const ram = HostMapping.anonymous(0x10000);
ram.write(0x1000, Uint8Array.from(code));
ram.write(0x1200, Uint8Array.from(handler));
vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 0x10000, mapping: ram });

const doorbell = Eventfd.create();
vm.ioeventfd({ eventfd: doorbell, address: DOORBELL, length: 4, datamatch: 7n });
const line = Eventfd.create();
vm.irqfd({ eventfd: line, gsi: GSI });

const vcpu = vm.createVcpu(0);
const sregs = vcpu.getSregs();
// Flat data segments of 4 GiB, so that 16-bit code reaches the doorbell.
const flat = { ...sregs.ds, base: 0n, limit: 0xffffffff, g: true };
vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 }, ds: flat, es: flat });
vcpu.updateRegs({ rip: 0x1000n, rsp: 0x8000n, rflags: 2n });

const running = vcpu.run({ timeoutMs: 10_000 });
console.log(`the guest rang the doorbell ${await doorbell.wait()} time, and no exit was made for it`);
line.write(1n);
const exit = await running;
console.log(
  exit.reason === 'io' && exit.port === 0x80
    ? `the interrupt handler answered ${String.fromCharCode(exit.data[0])}`
    : `unexpected exit: ${exit.reason}`,
);
doorbell.close();
line.close();
kvm.close();
