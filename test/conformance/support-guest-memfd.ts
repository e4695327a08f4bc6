/** The kinds of guest_memfd that their tests go through: each VM type, each set of flags that it reports. */
import { GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP } from '../../lib/abi/index.ts';
import { Kvm } from '../../lib/index.ts';
import type { GuestMemfd, Vm, VmTypeName } from '../../lib/index.ts';
import { nativeOf } from '../../lib/kvm/handle.ts';
import { outcome } from './support.ts';
import type { Need } from '../kvm/support.ts';

export const MMAP = BigInt(GUEST_MEMFD_FLAG_MMAP);
export const INIT_SHARED = BigInt(GUEST_MEMFD_FLAG_INIT_SHARED);

export interface Kind {
  readonly variant: string;
  readonly type: VmTypeName;
  readonly flags: bigint;
  readonly needs: readonly Need[];
}

/** The types that can be made anywhere; the others need hardware and a launch. */
export const TYPES = [
  { variant: 'default VM', type: 'default', needs: ['KVM_CAP_GUEST_MEMFD'] },
  { variant: 'sw-protected VM', type: 'sw-protected', needs: ['KVM_CAP_GUEST_MEMFD', 'vm-type:sw-protected'] },
] as const;

const FLAGS = [
  [0n, 'no flags'],
  [MMAP, 'MMAP'],
  [MMAP | INIT_SHARED, 'MMAP and INIT_SHARED'],
] as const;

/**
 * What a default VM may lack is skipped by name; flags of other types are tried where they are reported, as nothing
 * says that they should be.
 */
export const KINDS: readonly Kind[] = TYPES.flatMap(({ variant, type, needs }) =>
  FLAGS.filter(([flags]) => flags === 0n || type === 'default' || (flags & ~offered(type)) === 0n).map(
    ([flags, name]): Kind => ({
      variant: `${variant}, ${name}`,
      type,
      flags,
      needs: flags !== 0n && type === 'default' ? [...needs, 'mapped-guest-memfd'] : needs,
    }),
  ),
);

function offered(type: VmTypeName): bigint {
  try {
    using kvm = Kvm.open();
    return kvm.vmTypes().includes(type) ? flagsOf(kvm.createVm(type)) : 0n;
  } catch {
    return 0n; // No KVM: the tests say so.
  }
}

/** As the VM itself says, which is not what the system says. */
export function flagsOf(vm: Vm): bigint {
  return BigInt(vm.checkExtension('KVM_CAP_GUEST_MEMFD_FLAGS'));
}

/** A VM alone, closed with all that was made from it. */
export function withVm<T>(type: VmTypeName, use: (vm: Vm) => T): T {
  using kvm = Kvm.open();
  return use(kvm.createVm(type));
}

/** The same with a file of its kind, of `size` bytes. */
export function withFile<T>({ type, flags }: Kind, size: number, use: (file: GuestMemfd, vm: Vm) => T): T {
  return withVm(type, (vm) => use(vm.createGuestMemfd(size, { flags }), vm));
}

/**
 * What the kernel says to sizes and flags that `createGuestMemfd()` refuses before the kernel sees them: the addon
 * alone passes them on.
 */
export function createRaw(vm: Vm, size: bigint, flags = 0n): string {
  return outcome(() => nativeOf(vm).createGuestMemfd(BigInt.asUintN(64, size), flags).close());
}

/** fallocate(2) with ranges and modes that the methods refuse or do not have. */
export function fallocateRaw(file: GuestMemfd, mode: number, offset: number, length: number): string {
  return outcome(() => nativeOf(file).fallocate(mode, BigInt(offset), BigInt(length)));
}
