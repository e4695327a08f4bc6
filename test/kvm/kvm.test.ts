/** The system handle: opening KVM, and what it says about the host. */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP } from '../../lib/abi/index.ts';
import { KvmSystemError } from '../../lib/errors.ts';
import { Kvm } from '../../lib/kvm/index.ts';
import { native } from '../../lib/native.ts';
import { kvmTest, withKvm } from './support.ts';

function errorOf(action: () => unknown): Error & { code?: string; syscall?: string; hint?: string } {
  try {
    action();
  } catch (error) {
    return error as Error;
  }
  throw new Error('nothing was thrown');
}

describe('open', () => {
  kvmTest('takes a path, and closes what was made from it', () => {
    const before = native().census();
    const kvm = Kvm.open('/dev/kvm');
    const vm = kvm.createVm();
    const vcpu = vm.createVcpu(0);
    expect([kvm.fd, vm.fd, vcpu.fd].every((fd) => fd > 2)).toBe(true);
    kvm.close();
    expect([kvm.closed, vm.closed, vcpu.closed, kvm.fd, vm.fd, vcpu.fd]).toEqual([true, true, true, -1, -1, -1]);
    kvm.close();
    kvm[Symbol.dispose]();
    expect(native().census()).toEqual(before);
  });

  kvmTest("takes a descriptor, which stays the caller's", () => {
    const fd = openSync('/dev/kvm', 'r+');
    const kvm = Kvm.open(fd);
    expect(kvm.fd).not.toBe(fd);
    expect(kvm.getApiVersion()).toBe(12);
    kvm.close();
    const again = Kvm.open(fd);
    again.close();
    closeSync(fd);
  });

  it('says what to do where there is no such device', () => {
    const error = errorOf(() => Kvm.open('/dev/kvm-which-is-not-there'));
    expect(error).toBeInstanceOf(KvmSystemError);
    expect(error).toMatchObject({ code: 'ENOENT', errno: -2, syscall: 'open' });
    expect(error.message).toMatch(/^Opening \/dev\/kvm-which-is-not-there failed: .*modprobe/);
  });

  it('refuses a file that is not KVM, without sending it a request', () => {
    const before = native().census();
    const directory = mkdtempSync(join(tmpdir(), 'node-kvm-open-'));
    onTestFinished(() => rmSync(directory, { recursive: true }));
    const path = join(directory, 'file');
    writeFileSync(path, '');
    expect(errorOf(() => Kvm.open(path))).toMatchObject({ code: 'ENOTTY', syscall: 'KVM_GET_API_VERSION' });
    expect(errorOf(() => Kvm.open('/dev/null')).message).toMatch(/not \/dev\/kvm|\/dev\/null/);
    const fd = openSync('/dev/null', 'r+');
    expect(errorOf(() => Kvm.open(fd))).toBeInstanceOf(KvmSystemError);
    closeSync(fd);
    expect(errorOf(() => Kvm.open(fd))).toMatchObject({ code: 'EBADF' });
    expect(native().census()).toEqual(before);
  });

  it('refuses what is neither path nor descriptor', () => {
    expect(() => Kvm.open(null as never)).toThrow(TypeError);
    expect(() => Kvm.open(-1)).toThrow(RangeError);
    expect(() => Kvm.open(1.5)).toThrow(RangeError);
    expect(() => Kvm.open(3n as never)).toThrow(TypeError);
  });
});

describe('what KVM says', () => {
  kvmTest('extensions by name and by number', () =>
    withKvm((kvm) => {
      expect(kvm.checkExtension('KVM_CAP_USER_MEMORY')).toBe(1);
      expect(kvm.checkExtension(3)).toBe(1);
      expect(kvm.checkExtension(0xffff)).toBe(0);
      expect(() => kvm.checkExtension('KVM_CAP_NO_SUCH' as never)).toThrow(TypeError);
      expect(() => kvm.checkExtension('toString' as never)).toThrow(TypeError);
      expect(() => kvm.checkExtension(-1)).toThrow(RangeError);
    }),
  );

  kvmTest('VM types, all of which can be made or say why not', () =>
    withKvm((kvm) => {
      const types = kvm.vmTypes();
      expect(types).toContain('default');
      expect(kvm.createVm(0).typeName).toBe('default');
      if (!types.includes('tdx')) {
        expect(errorOf(() => kvm.createVm('tdx')).message).toMatch(/tdx.*default/);
      }
      expect(() => kvm.createVm('nothing' as never)).toThrow(RangeError);
      expect(() => kvm.createVm(0n as never)).toThrow(TypeError);
    }),
  );

  kvmTest("the length of a vCPU's mapping", () =>
    withKvm((kvm) => {
      expect(kvm.getVcpuMmapSize()).toBeGreaterThanOrEqual(12288);
    }),
  );

  kvmTest('CPUID leaves', () =>
    withKvm((kvm) => {
      const leaves = kvm.getSupportedCpuid();
      expect(leaves.length).toBeGreaterThan(10);
      const { ebx, edx, ecx } = leaves.find((leaf) => leaf.function === 0)!;
      const vendor = Buffer.from(Uint32Array.of(ebx, edx, ecx).buffer).toString();
      expect(vendor).toMatch(/^(GenuineIntel|AuthenticAMD|HygonGenuine)$/);
      expect(leaves.find((leaf) => leaf.function === 0x4000_0000)).toBeDefined();
      expect(Array.isArray(kvm.getEmulatedCpuid())).toBe(true);
    }),
  );

  kvmTest('MSR lists, and feature MSRs in calls of any length', { needs: ['KVM_CAP_GET_MSR_FEATURES'] }, () =>
    withKvm((kvm) => {
      const list = kvm.getMsrIndexList();
      expect(list).toContain(0x174);
      expect(new Set(list).size).toBe(list.length);
      const features = kvm.getMsrFeatureIndexList();
      const values = kvm.getMsrs(features);
      expect(values.map(({ index }) => index)).toEqual(features);
      const many = Array.from({ length: 600 }, (_, at) => features[at % features.length]!);
      if (features.length > 0) expect(kvm.getMsrs(many)).toHaveLength(600);
      expect(kvm.getMsrs([])).toEqual([]);
      expect(() => kvm.getMsrs([...features, 0xdead_beef])).toThrow(
        expect.objectContaining({ code: 'EINVAL', message: expect.stringContaining('0xdeadbeef') as string }),
      );
      expect(() => kvm.getMsrs([1n as never])).toThrow(TypeError);
      expect(() => kvm.getMsrs('x' as never)).toThrow(TypeError);
    }),
  );

  kvmTest('machine-check features', { needs: ['KVM_CAP_MCE'] }, () =>
    withKvm((kvm) => {
      // MCG_CTL_P; how many banks there are is the capability's value.
      expect(kvm.getMceCapSupported() & 0x100n).toBe(0x100n);
      expect(kvm.checkExtension('KVM_CAP_MCE')).toBeGreaterThan(0);
    }),
  );

  kvmTest('attributes of the system', { needs: ['KVM_CAP_SYS_ATTRIBUTES'] }, () =>
    withKvm((kvm) => {
      const attr = BigInt(KVM_X86_XCOMP_GUEST_SUPP);
      expect(kvm.hasDeviceAttr(KVM_X86_GRP_SYSTEM, attr)).toBe(true);
      const mask = new BigUint64Array(1);
      kvm.getDeviceAttr(KVM_X86_GRP_SYSTEM, attr, new Uint8Array(mask.buffer));
      expect(mask[0]! & 3n).toBe(3n);
      expect(kvm.hasDeviceAttr(99, 0n)).toBe(false);
      expect(errorOf(() => kvm.getDeviceAttr(99, 0n, new Uint8Array(8)))).toMatchObject({ code: 'ENXIO' });
      expect(() => kvm.getDeviceAttr(0, 0 as never, new Uint8Array(8))).toThrow(TypeError);
    }),
  );
});
