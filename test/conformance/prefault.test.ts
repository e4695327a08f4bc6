/** Section 5: memory that is mapped before the guest touches it, in the three set-ups of the kernel's own test. */
import { describe, expect } from 'vitest';
import { HostMapping } from '../../lib/index.ts';
import type { Kvm, Vcpu, Vm, VmTypeName } from '../../lib/index.ts';
import { KVM_MEMORY_ATTRIBUTE_PRIVATE } from '../../lib/abi/index.ts';
import { withKvm } from '../kvm/support.ts';
import { LOW_SIZE, WINDOW, writeGuest } from './guest-code.ts';
import { askKernel, lacksCompiler } from './guest-kernel.ts';
import { Guest, touch } from './guest-vcpu.ts';
import { kernelDiffers, kernelIs, outcomeOf, PAGE, pointTest, TWO_MIB } from './support.ts';

const SIZE = TWO_MIB + PAGE;
const SLOT = 10;

interface SetUp {
  readonly variant: string;
  readonly type: VmTypeName;
  readonly private: boolean;
}

const SET_UPS: readonly SetUp[] = [
  { variant: 'default VM', type: 'default', private: false },
  { variant: 'sw-protected VM, shared memory', type: 'sw-protected', private: false },
  { variant: 'sw-protected VM, private memory', type: 'sw-protected', private: true },
];

/** What one test of several of a point has of its own. */
interface More {
  readonly variant?: string;
  readonly lacks?: string | undefined;
}

interface Scene {
  readonly vm: Vm;
  readonly guest: Guest;
  readonly vcpu: Vcpu;
  /** The highest that there is room for. */
  readonly gpa: bigint;
  addSlot(): void;
}

/**
 * In older kernels the pre-fault tries again for ever with page tables that the deletion of a slot made obsolete, and
 * where it has begun before, the deletion waits for it: both hang, with the thread that deletes.
 */
const MODERN = kernelIs(6, 18);
const RACING = {
  variant: 'racing',
  lacks: MODERN ? undefined : 'Linux 6.18, where a pre-fault ends when its slot goes',
};

for (const { variant, type, private: isPrivate } of SET_UPS) {
  const needs =
    type === 'default'
      ? (['KVM_CAP_PRE_FAULT_MEMORY'] as const)
      : (['KVM_CAP_PRE_FAULT_MEMORY', 'private-memory'] as const);
  const test = (id: string, run: (scene: Scene) => unknown, more: More = {}): void => {
    const words = more.variant === undefined ? variant : `${variant}, ${more.variant}`;
    pointTest(id, { needs, lacks: more.lacks, variant: words }, () => withScene(type, isPrivate, run));
  };

  describe(`5 pre-fault: ${variant}`, () => {
    test('5.1', ({ vcpu, gpa }) => {
      for (const [offset, size] of [
        [0, TWO_MIB],
        [0, SIZE],
        [TWO_MIB, 2 * PAGE],
        [SIZE, PAGE],
        [SIZE, TWO_MIB],
      ] as const) {
        const call = prefaultOnce(vcpu, gpa + BigInt(offset), size);
        // Progress is what the kernel took off the size; the API has no third answer.
        if ('failed' in call) expect(offset).toBe(SIZE);
        else expect(call.done + call.size).toBe(BigInt(size));
        if ('done' in call) expect(call.done).toBeGreaterThanOrEqual(BigInt(PAGE));
      }
    });

    test('5.2', async ({ guest, vcpu, gpa }) => {
      let [at, left] = [gpa, BigInt(SIZE)];
      while (left > 0n) {
        const call = prefaultOnce(vcpu, at, Number(left));
        if ('failed' in call) expect(call.failed).toBe('EINTR');
        else {
          expect(call.gpa).toBe(at + call.done);
          [at, left] = [call.gpa, call.size];
        }
      }
      expect(at).toBe(gpa + BigInt(SIZE));
      await guest.run(touch({ gpa: WINDOW, size: SIZE }));
    });

    test(
      '5.3',
      async ({ vm, guest, vcpu, gpa, addSlot }) => {
        const seen = new Set<string>();
        for (let round = 0; round < 8; round++) {
          const racing = vcpu.preFaultMemoryAsync({ gpa, size: SIZE }).then(() => 'success', outcomeOf);
          vm.deleteMemslot(SLOT);
          seen.add(await racing);
          addSlot();
          expect(prefault(vcpu, gpa, SIZE)).toEqual({ outcome: 'success', left: 0n });
        }
        // Before the slot went, in the middle, or after: whichever it was.
        expect([...seen].filter((one) => !['success', 'ENOENT', 'EAGAIN', 'EFAULT'].includes(one))).toEqual([]);
        await guest.run(touch({ gpa: WINDOW, size: SIZE }));
      },
      RACING,
    );

    test(
      '5.3',
      async ({ vm, guest, vcpu, gpa, addSlot }) => {
        if (!MODERN) {
          kernelDiffers(
            '5.3',
            'a pre-fault never ends once a slot is deleted, until a signal comes or the vCPU has run',
          );
        }
        expect(prefaultOnce(vcpu, gpa, TWO_MIB)).toHaveProperty('done');
        vm.deleteMemslot(SLOT);
        // Running, the vCPU gives up page tables that the deletion made obsolete; pre-fault of older kernels does not.
        await guest.run(touch({ gpa: 0n, size: PAGE }));
        expect(prefault(vcpu, gpa, SIZE)).toEqual({ outcome: isPrivate ? 'EFAULT' : 'ENOENT', left: BigInt(SIZE) });
        addSlot();
        expect(prefault(vcpu, gpa, SIZE)).toEqual({ outcome: 'success', left: 0n });
        await guest.run(touch({ gpa: WINDOW, size: SIZE }));
      },
      { variant: 'gone between two calls' },
    );

    test('5.4', ({ vcpu, gpa }) => expect(prefault(vcpu, gpa, TWO_MIB)).toEqual({ outcome: 'success', left: 0n }));

    test('5.5', ({ vcpu, gpa }) => {
      expect(prefault(vcpu, gpa + BigInt(TWO_MIB), 2 * PAGE)).toEqual({ outcome: 'ENOENT', left: BigInt(PAGE) });
    });

    test('5.6', ({ vcpu, gpa }) => {
      expect(prefault(vcpu, gpa + BigInt(SIZE), PAGE)).toEqual({ outcome: 'ENOENT', left: BigInt(PAGE) });
    });

    test('5.7', async ({ guest, vcpu, gpa }) => {
      prefault(vcpu, gpa, TWO_MIB);
      prefault(vcpu, gpa + BigInt(TWO_MIB), 2 * PAGE);
      prefault(vcpu, gpa + BigInt(SIZE), PAGE);
      // Ends with the guest's own port access, and no exit before it.
      await guest.run(touch({ gpa: WINDOW, size: SIZE }));
    });
  });
}

describe('5 pre-fault: arguments', () => {
  const options = { needs: ['KVM_CAP_PRE_FAULT_MEMORY'], lacks: lacksCompiler } as const;
  pointTest('5.8', options, () =>
    withScene('default', false, ({ vcpu, gpa }) => {
      // Refused by name, before the kernel sees them; there are no flags to pass.
      for (const range of [
        { gpa: gpa + 1n, size: PAGE },
        { gpa, size: PAGE - 1 },
        { gpa, size: 0 },
        { gpa, size: 2n ** 64n - 4096n },
      ]) {
        expect(() => vcpu.preFaultMemory(range)).toThrow(RangeError);
      }
      expect(() => vcpu.preFaultMemory({ gpa, size: PAGE, flags: 1n } as never)).toThrow(/flags/);
      const refused = 'EINVAL';
      expect(askKernel('prefault')).toEqual({
        flags: refused,
        oddAddress: refused,
        oddSize: refused,
        noSize: refused,
        wrap: refused,
      });
    }),
  );
});

type Call = { readonly failed: string } | { readonly done: bigint; readonly gpa: bigint; readonly size: bigint };

function prefaultOnce(vcpu: Vcpu, gpa: bigint, size: number): Call {
  try {
    return vcpu.preFaultMemory({ gpa, size });
  } catch (error) {
    return { failed: outcomeOf(error) };
  }
}

/** To the end, or to the first failure. */
function prefault(vcpu: Vcpu, gpa: bigint, size: number): { outcome: string; left: bigint } {
  for (let [at, left] = [gpa, BigInt(size)]; ;) {
    if (left === 0n) return { outcome: 'success', left };
    const call = prefaultOnce(vcpu, at, Number(left));
    if ('failed' in call && call.failed !== 'EINTR') return { outcome: call.failed, left };
    if (!('failed' in call)) [at, left] = [call.gpa, call.size];
  }
}

async function withScene(type: VmTypeName, isPrivate: boolean, use: (scene: Scene) => unknown): Promise<void> {
  await withKvm(async (kvm) => {
    const vm = kvm.createVm(type);
    using low = HostMapping.anonymous(LOW_SIZE);
    using mapping = HostMapping.anonymous(SIZE);
    const gpa = highest(kvm, SIZE);
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: LOW_SIZE, mapping: low });
    writeGuest(low.view(), gpa);
    const guestMemfd = isPrivate ? vm.createGuestMemfd(SIZE) : undefined;
    const addSlot = (): void => {
      if (guestMemfd === undefined) vm.setUserMemoryRegion({ slot: SLOT, gpa, size: SIZE, mapping });
      else vm.setUserMemoryRegion2({ slot: SLOT, gpa, size: SIZE, mapping, guestMemfd });
    };
    addSlot();
    const attributes = BigInt(KVM_MEMORY_ATTRIBUTE_PRIVATE);
    if (isPrivate) vm.setMemoryAttributes({ address: gpa, size: SIZE, attributes });
    const guest = new Guest(vm, 0, low.view());
    try {
      await use({ vm, guest, vcpu: guest.vcpu, gpa, addSlot });
    } finally {
      vm.close();
    }
  });
}

/** The last 2 MiB border from which `size` bytes fit into guest physical memory, below what AMD keeps for its links. */
function highest(kvm: Kvm, size: number): bigint {
  const leaf = kvm.getSupportedCpuid().find((entry) => entry.function === 0x8000_0008);
  const eax = leaf?.eax ?? 36;
  // Bits 23:16 are the guest's own width, where there is one.
  const width = BigInt((eax >>> 16) & 0xff || eax & 0xff);
  const all = 1n << width;
  const end = width > 40n ? all - (12n << 30n) : all < 0xfd_0000_0000n ? all : 0xfd_0000_0000n;
  return ((end - BigInt(size)) / BigInt(TWO_MIB)) * BigInt(TWO_MIB);
}
