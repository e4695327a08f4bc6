/**
 * What this room needs of the rooms below it, and no more. `Vm`, `Vcpu`, `GuestMemfd` and `HostMapping` of lib/kvm have
 * these shapes; so has a plain buffer in a test of the pure parts.
 */

/** 2 MiB and 1 GiB. */
export type HugePageSize = 0x200000 | 0x40000000;

/** Mapped host memory: what a memslot has as its userspace address. `HostMapping`. */
export interface MappingPort {
  /** In bytes. */
  readonly length: number;
  readonly closed: boolean;
  /** Touching it can never raise SIGBUS, so it may be handed out as an ArrayBuffer. */
  readonly stable: boolean;
  /** Zero-copy; detached when this handle closes. At most 2^32 - 4096 bytes; throws where not `stable`. */
  view(offset: number, length: number): Uint8Array;
  /** Copies `into.length` bytes out; fails with EFAULT where `view` would raise SIGBUS. */
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
  fill(offset: number, length: number, value: number): void;
  madvise(offset: number, length: number, advice: number): void;
  madviseAsync(offset: number, length: number, advice: number): Promise<void>;
  /** mincore: bytes resident in the range. */
  resident(offset: number, length: number): number;
  close(): void;
}

/** Where host memory comes from. One object in lib/kvm; `Vm` has it as `hostMemory`. */
export interface HostMemoryPort {
  /** `hugetlb`: the huge page size in bytes, or 0. */
  anonymous(
    size: number,
    options: { readonly shared: boolean; readonly hugetlb: 0 | HugePageSize; readonly noreserve: boolean },
  ): MappingPort;
  /** A new memfd of `size` bytes, sealed against shrinking (unless of huge pages), and its mapping. */
  memfd(name: string, size: number, options: { readonly hugetlb: 0 | HugePageSize }): MappingPort;
  file(
    path: string,
    options: { readonly offset: number; readonly size: number; readonly writable: boolean },
  ): MappingPort;
  /** Another handle to the same memory, with views of its own. */
  again(mapping: MappingPort): MappingPort;
}

/** `GuestMemfd`. */
export interface GuestMemfdPort {
  readonly vm: object;
  readonly size: bigint;
  /** GUEST_MEMFD_FLAG_MMAP = 1, GUEST_MEMFD_FLAG_INIT_SHARED = 2. */
  readonly flags: bigint;
  readonly closed: boolean;
  fallocate(offset: number, length: number): void;
  fallocateAsync(offset: number, length: number): Promise<void>;
  punchHole(offset: number, length: number): void;
  punchHoleAsync(offset: number, length: number): Promise<void>;
  map(offset?: bigint, length?: number): MappingPort;
  close(): void;
}

export interface MemslotRequest {
  readonly slot: number;
  readonly gpa: bigint;
  readonly size: number;
  readonly mapping?: MappingPort;
  readonly mappingOffset?: number;
  readonly guestMemfd?: GuestMemfdPort;
  readonly guestMemfdOffset?: bigint;
  readonly flags?: number;
}

export interface AttributesRequest {
  readonly address: bigint;
  readonly size: bigint;
  readonly attributes: bigint;
  /** Also where no memslot is. */
  readonly allowUnbacked: boolean;
}

/** `Vm`. Methods and not properties, so that a handle with narrower arguments fits. */
export interface VmPort {
  readonly closed: boolean;
  readonly memslots: ReadonlyMap<number, unknown>;
  /** The lowest number that no slot has. */
  readonly freeMemslot: number;
  readonly hostMemory?: HostMemoryPort;
  checkExtension(capability: number): number;
  setUserMemoryRegion(request: MemslotRequest): void;
  setUserMemoryRegion2(request: MemslotRequest): void;
  deleteMemslot(slot: number): void;
  createGuestMemfd(size: bigint, options?: { readonly flags?: bigint }): GuestMemfdPort;
  setMemoryAttributes(request: AttributesRequest): void;
  setMemoryAttributesAsync(request: AttributesRequest): Promise<void>;
}

export interface PreFaultRange {
  readonly gpa: bigint;
  readonly size: bigint;
}

/** `Vcpu`, as far as pre-fault needs it. */
export interface VcpuPort {
  readonly id: number;
  readonly vm: object;
  readonly running: boolean;
  preFaultMemoryAsync(range: PreFaultRange): Promise<PreFaultRange>;
}

/** `HypercallExit`, as far as KVM_HC_MAP_GPA_RANGE needs it. */
export interface HypercallPort {
  readonly nr: number;
  readonly args: readonly bigint[];
  readonly ret: BigInt64Array;
}

/** `MemoryFaultExit`. */
export interface MemoryFaultPort {
  readonly gpa: bigint;
  readonly size: bigint;
  readonly private: boolean;
  readonly errno: 'EFAULT' | 'EHWPOISON';
}

// Advice of madvise (asm-generic/mman-common.h).
export const MADV_DONTNEED = 4;
export const MADV_REMOVE = 9;
