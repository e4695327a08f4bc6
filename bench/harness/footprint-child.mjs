// What a process takes: bare Node, or with a VM whose guest has written to every page of SIZE bytes of its memory.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const RANGE = 0x1000_0000;
const CODE = 0x1000;
const [type, size] = [process.argv[2], Number(process.argv[3])];
const word = (value) => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];

/** kB of a line of /proc. */
function kib(file, name) {
  const found = new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync(file, 'utf8'));
  return found === null ? 0 : Number(found[1]);
}

/** mov ebx, RANGE; mov ecx, pages; next: mov byte [ebx], 1; add ebx, 4096; dec ecx; jnz next; hlt */
// prettier-ignore
const touch = (pages) => Uint8Array.from([
  0xbb, ...word(RANGE), 0xb9, ...word(pages), 0xc6, 0x03, 0x01, 0x81, 0xc3, ...word(4096), 0x49, 0x75, 0xf4, 0xf4,
]);

const tablesBefore = kib('/proc/meminfo', 'SecPageTables');
let vm;
if (type !== 'bare') {
  const api = await import('node-kvm');
  const { openVm, startFlat } = await import('./memory.mjs');
  const opened = openVm(api, type === 'private' ? 'sw-protected' : 'default');
  vm = opened.vm;
  opened.memory.add({ gpa: 0n, size: 0x10000 });
  opened.memory.add({
    gpa: BigInt(RANGE),
    size,
    ...(type === 'private' ? { private: true, attributes: 'private' } : { backing: { kind: 'guest-memfd' } }),
  });
  opened.memory.write(BigInt(CODE), touch(size / 4096));
  const vcpu = vm.createVcpu(0);
  startFlat(vcpu, BigInt(CODE));
  const exit = vcpu.runSync();
  if (exit.reason !== 'hlt') throw new Error(`an exit that was not expected: ${exit.reason}`);
}
// What was only needed to start goes, here as in the bare process.
for (let i = 0; i < 3; i++) {
  globalThis.gc();
  await sleep(20);
}
process.send(
  {
    rss: kib('/proc/self/status', 'VmRSS'),
    file: kib('/proc/self/status', 'RssFile') + kib('/proc/self/status', 'RssShmem'),
    tables: kib('/proc/self/status', 'VmPTE'),
    kvmTables: kib('/proc/meminfo', 'SecPageTables') - tablesBefore,
  },
  () => process.exit(),
);
