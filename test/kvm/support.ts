/**
 * Tests that need KVM. Each names what it needs; where that is missing, its skip says so. Nothing stands in for the
 * kernel. NODE_KVM_REQUIRE turns such a skip into a failure: `kvm` where there is no usable /dev/kvm, `lab` where a
 * capability is missing that the lab has.
 */
import { it } from 'vitest';
import type { TestOptions } from 'vitest';
import type { CapName } from '../../lib/abi/index.ts';
import { GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP } from '../../lib/abi/index.ts';
import { KvmSystemError } from '../../lib/errors.ts';
import { HostMapping, Kvm } from '../../lib/kvm/index.ts';
import type { Vm, VmTypeName } from '../../lib/kvm/index.ts';

const required = new Set((process.env['NODE_KVM_REQUIRE'] ?? '').split(',').filter((word) => word !== ''));

/** Running under the lab's kernel, where private memory is required and not skipped. */
export const inLab = required.has('lab');

/** Something a test needs: a capability of the system, a VM type, or a word of {@link PROBES}. */
export type Need = CapName | `vm-type:${VmTypeName}` | keyof typeof PROBES;

export interface KvmTestOptions extends TestOptions {
  readonly needs?: readonly Need[];
}

const MAPPED = BigInt(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);

const PROBES = {
  /** A default VM that binds a guest_memfd which the host maps (Linux 6.18). */
  'mapped-guest-memfd': () =>
    withVm('default', (vm) => (BigInt(vm.checkExtension('KVM_CAP_GUEST_MEMFD_FLAGS')) & MAPPED) === MAPPED),
  /** A VM type with private memory and memory attributes that can be made here. */
  'private-memory': () =>
    hasType('sw-protected') && withVm('sw-protected', (vm) => vm.checkExtension('KVM_CAP_MEMORY_ATTRIBUTES') !== 0),
  /** A default VM of this kernel does not bind any guest_memfd (before Linux 6.18). */
  'no-guest-memfd-on-default': () => withVm('default', (vm) => vm.checkExtension('KVM_CAP_GUEST_MEMFD') === 0),
} as const;

/** What only newer kernels than the lab's have, or only older ones: its absence in the lab is no failure. */
const NOT_IN_LAB: ReadonlySet<Need> = new Set<Need>([
  'mapped-guest-memfd',
  'vm-type:sev',
  'vm-type:sev-es',
  'vm-type:snp',
  'vm-type:tdx',
  'KVM_CAP_GUEST_MEMFD_FLAGS',
  'KVM_CAP_ONE_REG',
  'KVM_CAP_X86_BUS_LOCK_EXIT',
  'KVM_CAP_X86_NOTIFY_VMEXIT',
]);

const known = new Map<Need, boolean>();
let refusal: string | undefined;
let kvm: Kvm | undefined;

try {
  Kvm.open().close();
} catch (error) {
  refusal = `/dev/kvm: ${(error as { code?: string }).code ?? (error as Error).message}`;
  // An addon that is not built or does not load is no missing KVM.
  if (required.has('kvm') || !(error instanceof KvmSystemError)) throw error;
}

/** The first need that this host does not meet. */
function missing(needs: readonly Need[]): string | undefined {
  if (refusal !== undefined) return refusal;
  return needs.find((need) => {
    let met = known.get(need);
    if (met === undefined) known.set(need, (met = probe(need)));
    return !met;
  });
}

function probe(need: Need): boolean {
  kvm = Kvm.open();
  try {
    if (need in PROBES) return PROBES[need as keyof typeof PROBES]();
    if (need.startsWith('vm-type:')) return hasType(need.slice('vm-type:'.length) as VmTypeName);
    return kvm.checkExtension(need as CapName) !== 0;
  } finally {
    kvm.close();
    kvm = undefined;
  }
}

function hasType(type: VmTypeName): boolean {
  return kvm!.vmTypes().includes(type);
}

function withVm(type: VmTypeName, ask: (vm: Vm) => boolean): boolean {
  const vm = kvm!.createVm(type);
  try {
    return ask(vm);
  } finally {
    vm.close();
  }
}

/** A test on real KVM, skipped by the name of what is missing. */
export function kvmTest(name: string, run: () => unknown): void;
export function kvmTest(name: string, options: KvmTestOptions, run: () => unknown): void;
export function kvmTest(name: string, second: KvmTestOptions | (() => unknown), third?: () => unknown): void {
  const [options, run] = typeof second === 'function' ? [{}, second] : [second, third!];
  const { needs = [], ...rest } = options;
  const lacks = missing(needs);
  if (lacks === undefined) it(name, rest, run);
  else if (inLab && !NOT_IN_LAB.has(lacks as Need))
    it(name, rest, () => {
      throw new Error(`the lab lacks ${lacks}`);
    });
  else it.skip(`${name} [needs ${lacks}]`, rest, run);
}

/** Closes everything when `use` is done. */
export async function withKvm<T>(use: (kvm: Kvm) => T | Promise<T>): Promise<T> {
  const handle = Kvm.open();
  try {
    return await use(handle);
  } finally {
    handle.close();
  }
}

/** A VM with `size` bytes of anonymous memory at gpa 0 in slot 0. */
export function vmWithMemory(
  handle: Kvm,
  size = 0x10000,
  type: VmTypeName = 'default',
): { vm: Vm; mapping: HostMapping; memory: Uint8Array } {
  const vm = handle.createVm(type);
  const mapping = HostMapping.anonymous(size);
  vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size, mapping });
  return { vm, mapping, memory: mapping.view() };
}
