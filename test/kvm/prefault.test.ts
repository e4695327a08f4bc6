import { describe, expect, it } from 'vitest';
import type { Vm } from '../../lib/kvm/index.ts';
import { machine, PAGE, privateTest } from './memory-guest.ts';

const MiB = 2 ** 20;

function open({ vcpus = 1, size = 16 * MiB } = {}) {
  let vm: Vm | undefined;
  const opened = machine({ type: 'sw-protected', prepare: (made) => (vm = made) });
  opened.memory.add({ gpa: 2n ** 32n, size, private: true });
  return {
    ...opened,
    gpa: 2n ** 32n,
    size,
    vcpus: [opened.vcpu, ...Array.from({ length: vcpus - 1 }, (_, id) => vm!.createVcpu(id + 1))],
  };
}

describe('pre-fault', () => {
  it('says what is missing where the VM cannot (needs a VM without KVM_CAP_PRE_FAULT_MEMORY)', async ({ skip }) => {
    const { memory, vm, vcpu } = machine();
    if (vm.checkExtension('KVM_CAP_PRE_FAULT_MEMORY') > 0) skip('this host can pre-fault');
    await expect(memory.prefault({ gpa: 0n, size: PAGE, vcpus: [vcpu] })).rejects.toMatchObject({
      name: 'KvmUnsupportedError',
      capability: 'KVM_CAP_PRE_FAULT_MEMORY',
    });
  });
});

describe('pre-fault in a sw-protected VM', () => {
  privateTest('maps shared memory, which is then resident on the host', async () => {
    const { memory, gpa, size, vcpus } = open();
    expect(memory.account(memory.region(gpa)).shared.populated).toBe(0);
    const progress: number[] = [];
    const result = await memory.prefault({
      gpa,
      size,
      vcpus,
      chunk: 4 * MiB,
      onProgress: ({ bytes }) => progress.push(bytes),
    });
    expect(result.bytes).toBe(size);
    expect(result.calls).toBeGreaterThanOrEqual(4);
    expect(progress.at(-1)).toBe(size);
    expect([...progress].sort((a, b) => a - b)).toEqual(progress);
    expect(memory.account(memory.region(gpa)).shared.populated).toBe(size);
  });

  privateTest('maps private memory, and not the shared side of it', async () => {
    const { memory, gpa, size, vcpus } = open();
    memory.convert({ gpa, size: size / 2, to: 'private' });
    await memory.prefault({ gpa, size, vcpus });
    expect(memory.account(memory.region(gpa))).toEqual({
      private: { bytes: size / 2, populated: { atLeast: size / 2, atMost: size / 2 } },
      shared: { bytes: size / 2, populated: size / 2 },
      doubled: { atLeast: 0, atMost: 0 },
    });
  });

  privateTest('of what is mapped already changes nothing', async () => {
    const { memory, gpa, size, vcpus } = open();
    memory.convert({ gpa, size, to: 'private' });
    const first = await memory.prefault({ gpa, size, vcpus });
    const account = memory.account();
    const second = await memory.prefault({ gpa, size, vcpus });
    expect(second.bytes).toBe(first.bytes);
    expect(memory.account()).toEqual(account);
  });

  privateTest('is shared by several vCPUs', async () => {
    const { memory, gpa, size, vcpus } = open({ vcpus: 3 });
    memory.convert({ gpa, size, to: 'private' });
    expect((await memory.prefault({ gpa, size, vcpus, chunk: MiB })).bytes).toBe(size);
    expect(memory.account(memory.region(gpa)).private.populated.atLeast).toBe(size);
  });

  privateTest('explains ENOENT: it stops where memory ends', async () => {
    const { memory, gpa, size, vcpus } = open({ size: 2 * MiB });
    await expect(memory.prefault({ gpa: gpa + BigInt(MiB), size: 2 * MiB, vcpus })).rejects.toMatchObject({
      name: 'KvmSystemError',
      code: 'ENOENT',
      syscall: 'KVM_PRE_FAULT_MEMORY',
      hint: expect.stringContaining('no memslot is there'),
    });
    await expect(memory.prefault({ gpa: 2n ** 40n, size: 2 ** 51, vcpus })).rejects.toMatchObject({ code: 'ENOENT' });
    expect(size).toBe(2 * MiB);
  });

  privateTest('explains EFAULT: private, and no guest_memfd behind it', async () => {
    const { memory, gpa, size, vcpus } = open();
    memory.convert({ gpa, size, to: 'private' });
    memory.region(gpa)!.guestMemfd!.close();
    await expect(memory.prefault({ gpa, size, vcpus })).rejects.toMatchObject({
      name: 'KvmSystemError',
      code: 'EFAULT',
      hint: expect.stringContaining('guest_memfd'),
    });
  });

  privateTest('ends with the reason of a signal', async () => {
    const { memory, gpa, size, vcpus } = open();
    const controller = new AbortController();
    await expect(
      memory.prefault({
        gpa,
        size,
        vcpus,
        chunk: MiB,
        signal: controller.signal,
        onProgress: () => controller.abort(new Error('enough')),
      }),
    ).rejects.toThrow('enough');
    expect((await memory.prefault({ gpa, size, vcpus })).bytes).toBe(size);
  });

  privateTest('refuses a vCPU that runs, or that is of another VM', async () => {
    const { memory, gpa, size, vcpus, vcpu } = open();
    const other = open();
    await expect(memory.prefault({ gpa, size, vcpus: other.vcpus })).rejects.toMatchObject({ code: 'ERR_KVM_FOREIGN' });
    memory.write(0x1000n, Uint8Array.of(0xeb, 0xfe));
    vcpu.updateRegs({ rip: 0x1000n, rflags: 2n });
    const running = vcpu.run();
    await expect(memory.prefault({ gpa, size, vcpus })).rejects.toMatchObject({ code: 'ERR_KVM_RUNNING' });
    vcpu.kick();
    expect((await running).reason).toBe('interrupted');
  });

  privateTest('follows a conversion when asked', async () => {
    const { memory, gpa, size, vcpus } = open();
    await memory.convertAsync({ gpa, size, to: 'private', prefault: { vcpus } });
    expect(memory.account(memory.region(gpa)).private.populated.atLeast).toBe(size);
  });
});
