import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../lib/memory/index.ts';
import { PlainVcpu, PlainVm, systemError } from './memory-plain.ts';

const MiB = 2 ** 20;

function open(vcpus = 1) {
  const vm = new PlainVm();
  const guest = new GuestMemory(vm);
  guest.add({ gpa: 0n, size: 64 * MiB, private: true, backing: { kind: 'none' }, attributes: 'private' });
  return { vm, guest, vcpus: Array.from({ length: vcpus }, (_, id) => new PlainVcpu(vm, id)) };
}

const failing = (code: string, errno: number) => systemError(code, errno, 'KVM_PRE_FAULT_MEMORY');

describe('pre-fault (with plain objects for vCPUs)', () => {
  it('goes on until nothing is left', async () => {
    const { guest, vcpus } = open();
    const progress: number[] = [];
    const result = await guest.prefault({
      gpa: 0n,
      size: 3 * MiB + 4096,
      vcpus,
      onProgress: ({ bytes }) => progress.push(bytes),
    });
    expect(result).toMatchObject({ bytes: 3 * MiB + 4096, calls: 4 });
    expect(progress).toEqual([MiB, 2 * MiB, 3 * MiB, 3 * MiB + 4096]);
    expect(guest.account().private.populated).toEqual({ atLeast: 3 * MiB + 4096, atMost: 64 * MiB });
  });

  it('tries again after EINTR and EAGAIN', async () => {
    const { guest, vcpus } = open();
    vcpus[0]!.failures = [failing('EINTR', -4), failing('EAGAIN', -11)];
    expect(await guest.prefault({ gpa: 0n, size: MiB, vcpus })).toMatchObject({ bytes: MiB, calls: 3 });
  });

  it('shares the range between vCPUs', async () => {
    const { guest, vcpus } = open(3);
    const last: number[] = [];
    const result = await guest.prefault({
      gpa: 0n,
      size: 64 * MiB,
      vcpus,
      chunk: 4 * MiB,
      onProgress: ({ bytes }) => last.push(bytes),
    });
    expect(result.bytes).toBe(64 * MiB);
    expect(vcpus.map(({ calls }) => calls).reduce((sum, calls) => sum + calls)).toBe(64);
    expect(Math.min(...vcpus.map(({ calls }) => calls))).toBeGreaterThan(10);
    expect(last.at(-1)).toBe(64 * MiB);
  });

  it('explains errors, and ends the others', async () => {
    const explained = async (code: string, errno: number) => {
      const { guest, vcpus } = open(2);
      vcpus[1]!.failures = [failing(code, errno)];
      const error = await guest
        .prefault({ gpa: 0n, size: 64 * MiB, vcpus, chunk: MiB })
        .catch((reason: unknown) => reason);
      expect(vcpus[0]!.calls).toBeLessThan(5);
      return error;
    };
    expect(await explained('ENOENT', -2)).toMatchObject({
      name: 'KvmSystemError',
      code: 'ENOENT',
      hint: expect.stringContaining('no memslot is there'),
    });
    expect(await explained('EFAULT', -14)).toMatchObject({
      code: 'EFAULT',
      hint: expect.stringContaining('no guest_memfd'),
    });
    expect(await explained('EOPNOTSUPP', -95)).toMatchObject({
      name: 'KvmUnsupportedError',
      message: expect.stringContaining('NPT'),
    });
    expect(await explained('EIO', -5)).toMatchObject({ code: 'EIO' });
  });

  it('gives up where calls succeed without progress', async () => {
    const { guest, vcpus } = open();
    vcpus[0]!.step = 0;
    await expect(guest.prefault({ gpa: 0n, size: MiB, vcpus })).rejects.toThrow('without progress');
  });

  it('ends with the reason of the signal', async () => {
    const { guest, vcpus } = open();
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error('enough'));
    await expect(
      guest.prefault({ gpa: 0n, size: 64 * MiB, vcpus, onProgress, signal: controller.signal }),
    ).rejects.toThrow('enough');
    expect(vcpus[0]!.calls).toBe(1);
    await expect(guest.prefault({ gpa: 0n, size: MiB, vcpus, signal: AbortSignal.abort() })).rejects.toThrow(/abort/);
  });

  it('refuses bad input', async () => {
    const { vm, guest, vcpus } = open();
    const range = { gpa: 0n, size: 4096 };
    await expect(guest.prefault({ ...range, vcpus: [] })).rejects.toThrow('at least one vCPU');
    await expect(guest.prefault({ ...range, vcpus: [vcpus[0]!, vcpus[0]!] })).rejects.toThrow('each vCPU once');
    await expect(guest.prefault({ ...range, vcpus: vcpus[0] as never })).rejects.toThrow(TypeError);
    await expect(guest.prefault({ ...range, vcpus: [new PlainVcpu(new PlainVm(), 5)] })).rejects.toThrow(
      'vCPU 5 belongs to another VM',
    );
    await expect(guest.prefault({ gpa: 5n, size: 4096, vcpus })).rejects.toThrow(RangeError);
    await expect(guest.prefault({ gpa: 0n, size: 0, vcpus })).rejects.toThrow(RangeError);
    await expect(guest.prefault({ gpa: 0n, size: 2 ** 53, vcpus })).rejects.toThrow(RangeError);
    await expect(guest.prefault({ ...range, vcpus, chunk: 5 })).rejects.toThrow(/chunk/);
    vcpus[0]!.running = true;
    await expect(guest.prefault({ ...range, vcpus })).rejects.toMatchObject({ code: 'ERR_KVM_RUNNING' });
    vm.capabilities.delete(236);
    vcpus[0]!.running = false;
    await expect(guest.prefault({ ...range, vcpus })).rejects.toMatchObject({ capability: 'KVM_CAP_PRE_FAULT_MEMORY' });
  });
});
