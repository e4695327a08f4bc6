// Two vCPUs of one VM, each run synchronously in a worker thread, counting together in shared guest memory. The main
// thread stays free: it watches them, then stops them with a kick.
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { once } from 'node:events';
import { HostMapping, Kvm, Vcpu, Vm } from 'node-kvm';

const COUNTER = 0x2000;
// prettier-ignore
const code = [
  0xf0, 0x66, 0xff, 0x06, 0x00, 0x20, // again: lock inc dword [0x2000]
  0xe6, 0x10, //                             out 0x10, al
  0xeb, 0xf6, //                             jmp again
];

if (isMainThread) await main();
else work();

async function main() {
  const kvm = Kvm.open();
  const vm = kvm.createVm();
  const ram = HostMapping.anonymous(0x10000);
  ram.write(0x1000, Uint8Array.from(code));
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: 0x10000, mapping: ram });

  const workers = [0, 1].map((id) => new Worker(new URL(import.meta.url), { workerData: { vm: vm.share(), id } }));
  const exited = workers.map((worker) => once(worker, 'exit'));
  const vcpus = await Promise.all(
    workers.map(async (worker) => {
      const [token] = await once(worker, 'message');
      return Vcpu.adopt(token, vm);
    }),
  );
  await new Promise((resolve) => setTimeout(resolve, 200));

  const ended = workers.map((worker) => once(worker, 'message'));
  for (const vcpu of vcpus) vcpu.kick();
  const [first, second] = (await Promise.all(ended)).map(([exits]) => exits);
  await Promise.all(exited);

  const counter = new DataView(ram.read(COUNTER, 4).buffer).getUint32(0, true);
  console.log(`vCPU 0 made ${first} exits, vCPU 1 made ${second}, and the guest counted to ${counter}`);
  // A kick can stop a vCPU between its increment and its port write.
  const ahead = counter - first - second;
  console.log(ahead >= 0 && ahead <= 2 ? 'no increment was lost' : 'increments were lost');
  for (const vcpu of vcpus) vcpu.close();
  kvm.close();
}

function work() {
  const vm = Vm.adopt(workerData.vm);
  const vcpu = vm.createVcpu(workerData.id);
  const sregs = vcpu.getSregs();
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } });
  vcpu.updateRegs({ rip: 0x1000n, rflags: 2n });
  vcpu.setMpState('runnable');
  parentPort.postMessage(vcpu.share());

  let exits = 0;
  while (vcpu.runSync().reason === 'io') exits++;
  parentPort.postMessage(exits);
}
