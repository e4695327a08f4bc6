// The guest asks by KVM_HC_MAP_GPA_RANGE, the host converts and discards, and the guest goes on and writes there.
import { timed } from './harness/clock.mjs';
import { compareWith, MiB, openVm, startFlat } from './harness/memory.mjs';

const CODE = 0x1000;
const RANGE = 0x1000_0000;

const word = (value) => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];

/** Asks once, then writes to the first `touch` pages of the range. c/conversion.c has the same. */
// prettier-ignore
const request = (pages, attributes, touch) => [
  0xb8, ...word(12), //                    mov eax, KVM_HC_MAP_GPA_RANGE
  0xbb, ...word(RANGE), //                 mov ebx, gpa
  0xb9, ...word(pages), //                 mov ecx, pages
  0xba, ...word(attributes), //            mov edx, attributes
  0x0f, 0x01, 0xd9, //                     vmmcall
  0xb9, ...word(touch), //                 mov ecx, touch
  0xc6, 0x03, 0x01, //               next: mov byte [ebx], 1
  0x81, 0xc3, ...word(4096), //            add ebx, 4096
  0x49, 0x75, 0xf4, //                     dec ecx; jnz next
];

function conversions(api, size, touch) {
  const { memory, vm, close } = openVm(api, 'sw-protected');
  vm.enableExitHypercall();
  memory.add({ gpa: 0n, size: 0x10000 });
  memory.add({ gpa: BigInt(RANGE), size, private: true });
  const code = [...request(size / 4096, 16, touch), ...request(size / 4096, 0, touch)];
  memory.write(BigInt(CODE), Uint8Array.from([...code, 0xe9, ...word(-(code.length + 5))]));
  const vcpu = vm.createVcpu(0);
  startFlat(vcpu, BigInt(CODE));
  return {
    close,
    run: (n) =>
      timed(() => {
        for (let i = 0; i < n; i++) {
          const exit = vcpu.runSync();
          if (exit.reason !== 'hypercall' || memory.handleHypercall(exit)?.ret !== 0n) {
            throw new Error(`an exit that was not expected: ${exit.reason}`);
          }
        }
      }),
  };
}

export default {
  name: 'conversion',
  what: 'a guest asks by hypercall for memory to change sides, and goes on',
  async run(bench) {
    bench.pin();
    for (const [text, size, touch, target] of [
      ['4 KiB', 4096, 1, '<= 1.5'],
      ['2 MiB', 2 * MiB, 1, '<= 1.10'],
      ['2 MiB, every page written', 2 * MiB, 512, '<= 1.10'],
    ]) {
      await compareWith(bench, ['conversion', size, touch], {
        name: `conversion ${text}`,
        unit: 'us',
        target,
        warm: touch > 1 ? 200 : 6000,
        open: () => conversions(bench.api, size, touch),
      });
    }
  },
};
