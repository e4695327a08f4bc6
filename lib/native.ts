/**
 * Loads the addon and types its whole surface. Nobody else touches it.
 *
 * The addon makes system calls and knows kernel structs; it decides nothing. JavaScript validates and gives defaults;
 * the addon still checks everything that memory safety rests on (types, lengths, counts inside variable-length structs,
 * closed handles), because nothing that JavaScript does may crash the process.
 *
 * Every failed system call throws an Error with own properties `code` ('EINVAL'), `errno` (negative, as in Node) and
 * `syscall` (the ioctl's kernel name, or 'mmap', 'fallocate', ...). Use of a closed object throws an Error with
 * `code: 'ERR_KVM_CLOSED'`; a vCPU call that would wait behind a running KVM_RUN throws `code: 'ERR_KVM_RUNNING'`.
 */
import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KvmUnsupportedError } from './errors.ts';

/** An open file descriptor owned by the addon. Always close-on-exec. */
export interface NativeFile {
  /** The descriptor, or -1 once closed. */
  readonly fd: number;
  readonly closed: boolean;
  /** Idempotent. */
  close(): void;
  /**
   * A process-wide name of the object behind this handle, for `adopt()` in another thread of this process. It is valid
   * as long as any handle to the object is open.
   */
  token(): bigint;
}

/**
 * `request` must be in the addon's table for this kind of descriptor; the table also says what the argument is.
 * An integer argument is passed by value; a Uint8Array is passed by address, read and written in place, and must be at
 * least as long as the struct (for variable-length structs: as long as the count in its header says).
 * Requests whose struct holds pointers are refused here; they have methods of their own.
 */
export interface NativeIoctl extends NativeFile {
  ioctl(request: number, argument?: number | bigint | Uint8Array): number;
}

/** `kvm_device_attr` calls on the system, vCPU or device descriptor. `data` is at most 64 KiB, bounced in the addon. */
export interface NativeDeviceAttr {
  getDeviceAttr(group: number, attr: bigint, data: Uint8Array): void;
  setDeviceAttr(group: number, attr: bigint, data: Uint8Array | null): void;
  /** KVM_HAS_DEVICE_ATTR: true on success, false on ENXIO; other errors throw. */
  hasDeviceAttr(group: number, attr: bigint): boolean;
}

export interface NativeSystem extends NativeIoctl, NativeDeviceAttr {
  createVm(type: bigint): NativeVm;
}

/** A pointer field to fill in: at byte `at` of the parent struct, the address of (a bounced copy of) `target`. */
export interface NativePointer {
  readonly at: number;
  readonly target: Uint8Array;
}

export interface NativeMsrRange {
  readonly flags: number;
  readonly base: number;
  /** In MSRs. */
  readonly count: number;
  /** At least ceil(count / 64) * 8 bytes. */
  readonly bitmap: Uint8Array;
}

export interface NativeVm extends NativeIoctl {
  createVcpu(id: number): NativeVcpu;
  createGuestMemfd(size: bigint, flags: bigint): NativeGuestMemfd;
  createDevice(type: number, flags: number): NativeDevice;
  getStatsFd(): NativeReadable;
  /**
   * KVM_SET_USER_MEMORY_REGION (version 1) or KVM_SET_USER_MEMORY_REGION2 (version 2). `size` 0 deletes the slot.
   * The mapping is kept alive until the slot is deleted or replaced, or the kernel's VM is gone.
   */
  setUserMemoryRegion(
    version: 1 | 2,
    slot: number,
    flags: number,
    gpa: bigint,
    size: bigint,
    mapping: NativeMapping | null,
    mappingOffset: bigint,
    guestMemfd: NativeGuestMemfd | null,
    guestMemfdOffset: bigint,
  ): void;
  setMemoryAttributes(address: bigint, size: bigint, attributes: bigint): void;
  /** The same on a pool thread. The objects stay open until it settles. */
  setMemoryAttributesAsync(address: bigint, size: bigint, attributes: bigint): Promise<void>;
  /** `bitmap`: at least ceil(slot pages / 64) * 8 bytes, checked against the size that the slot was set with. */
  getDirtyLog(slot: number, bitmap: Uint8Array): void;
  clearDirtyLog(slot: number, firstPage: bigint, numPages: number, bitmap: Uint8Array): void;
  setMsrFilter(flags: number, ranges: readonly NativeMsrRange[]): void;
  /** KVM_MEMORY_ENCRYPT_REG_REGION / UNREG_REGION. A registered mapping stays alive until unregistered. */
  memoryEncryptRegion(register: boolean, mapping: NativeMapping, offset: bigint, size: bigint): void;
  /**
   * KVM_MEMORY_ENCRYPT_OP, raw: `command` is the vendor's command struct (kvm_sev_cmd, kvm_tdx_cmd), copied back;
   * `data` its parameter struct, whose address is put at `dataAt` of the command; `pointers` fill pointer fields of
   * `data`. Every buffer is bounced to memory that ends at a guard page, so that a wrong length is EFAULT, not damage.
   */
  memoryEncryptOp(
    command: Uint8Array | null,
    dataAt: number,
    data: Uint8Array | null,
    pointers: readonly NativePointer[],
  ): void;
}

/** What a vCPU thread says when a command is over: `code` as described at `runSync`; for others 0 or -errno. */
export type NativeVcpuCallback = (code: number) => void;

export interface NativeVcpu extends NativeIoctl, NativeDeviceAttr {
  /** The whole kvm_run mapping (KVM_GET_VCPU_MMAP_SIZE bytes). Detached by close(). */
  readonly run: ArrayBuffer;
  /** The ring of kvm_dirty_gfn. Detached by close(). */
  mapDirtyRing(bytes: number): ArrayBuffer;
  /**
   * KVM_RUN in the calling thread. `timeoutMs` < 0: none.
   * Returns `exit_reason` when the call returned 0 (so >= 0); 39 (KVM_EXIT_MEMORY_FAULT) | errno << 16 when it failed
   * with EFAULT or EHWPOISON and the kernel annotated it; -errno for every other failure. exit_reason is overwritten
   * with a marker beforehand, so a stale reason is never returned.
   * -EINTR: see `interruptCause`. Ends by itself (returning -EINTR) when the worker is being terminated.
   */
  runSync(timeoutMs: number): number;
  /** Names this vCPU to `runVcpu`, in this environment and for as long as this object is reachable. */
  readonly runSlot: number;
  /** Called on this environment's event loop after each `start*` command. Set once, before the first command. */
  onComplete(callback: NativeVcpuCallback): void;
  /** KVM_RUN on the vCPU's own native thread (made at the first start). The event loop stays alive until it is over. */
  startRun(): void;
  /**
   * KVM_PRE_FAULT_MEMORY once, on the vCPU's own thread. `range` (64 bytes, kvm_pre_fault_memory) is copied now and
   * written back before the callback.
   */
  startPreFault(range: Uint8Array): void;
  /** KVM_PRE_FAULT_MEMORY once, here. Written in place. */
  preFault(range: Uint8Array): void;
  /** KVM_RUN with immediate_exit: finishes a pending exit without entering the guest. Result as runSync. */
  completePending(): number;
  /**
   * Ends the KVM_RUN in progress. With `sticky` it stays until a run has returned -EINTR for it: the next one, where none
   * is in progress or the guest exits by itself in the same moment. Otherwise nothing happens then. A run is in
   * progress from `startRun` on.
   * May be called from any thread's handle.
   */
  kick(sticky: boolean): void;
  /** Ends the KVM_RUN in progress as its time-out would; nothing where there is none. From any thread's handle. */
  stop(): void;
  /** Why the last -EINTR: bit 0 a kick, bit 1 the time-out, bit 2 a signal of the process, bit 3 closing. */
  readonly interruptCause: number;
  /** True while a KVM_RUN or another command is in progress on any thread. */
  readonly running: boolean;
  /** KVM_GET_XSAVE2 with the size that KVM_CAP_XSAVE2 gives for this VM (KVM_GET_XSAVE, 4096 bytes, without it). */
  getXsave(): Uint8Array;
  /** KVM_SET_XSAVE; `bytes` must have the size of getXsave(). */
  setXsave(bytes: Uint8Array): void;
  getOneReg(id: bigint, value: Uint8Array): void;
  setOneReg(id: bigint, value: Uint8Array): void;
  getStatsFd(): NativeReadable;
  /** KVM_MEMORY_ENCRYPT_OP on the vCPU (TDX), as on the VM. */
  memoryEncryptOp(
    command: Uint8Array | null,
    dataAt: number,
    data: Uint8Array | null,
    pointers: readonly NativePointer[],
  ): void;
}

/** A memfd, a file, or a guest_memfd. */
export interface NativeMemoryFile extends NativeFile {
  /** fstat st_size. */
  readonly size: bigint;
  fallocate(mode: number, offset: bigint, length: bigint): void;
  /** On a pool thread; EINTR is retried. */
  fallocateAsync(mode: number, offset: bigint, length: bigint): Promise<void>;
}

export interface NativeHostFile extends NativeMemoryFile {
  ftruncate(length: bigint): void;
  /** fcntl F_ADD_SEALS. */
  addSeals(seals: number): void;
}

export interface NativeGuestMemfd extends NativeMemoryFile {
  readonly flags: bigint;
}

export interface NativeDevice extends NativeIoctl, NativeDeviceAttr {}

export interface NativeReadable extends NativeFile {
  /** pread; returns the bytes read. */
  read(offset: number, into: Uint8Array): number;
}

export interface NativeEventfd extends NativeFile {
  /** Adds to the counter. False where it would block (EAGAIN). */
  write(value: bigint): boolean;
  /** Takes the counter (or 1, in semaphore mode); undefined where it is 0. Never blocks. */
  read(): bigint | undefined;
  /** Calls back once on this event loop when readable; the loop stays alive meanwhile. One poll at a time. */
  poll(callback: (errno: number) => void): void;
  cancelPoll(): void;
}

export interface NativeAnonymousOptions {
  readonly shared: boolean;
  /** 0, or the log2 of the huge page size: 21 or 30. */
  readonly hugetlb: number;
  /** MAP_NORESERVE. */
  readonly noreserve: boolean;
}

/**
 * Mapped host memory. Lives as long as its handles (in any thread), the ArrayBuffers made from it, every memslot and
 * every encrypted region that uses it. Marked MADV_DONTFORK.
 */
export interface NativeMapping {
  readonly length: bigint;
  readonly closed: boolean;
  /**
   * Whether touching it can never raise SIGBUS: anonymous memory, and memfds sealed against shrinking. Only such memory
   * is handed out as an ArrayBuffer; the rest is reached by `read` and `write`, which fail with EFAULT instead.
   */
  readonly stable: boolean;
  /** Detached by close(). `length` at most 2^32 - 4096; throws where not `stable`. */
  buffer(offset: bigint, length: number): ArrayBuffer;
  read(offset: bigint, into: Uint8Array): void;
  write(offset: bigint, from: Uint8Array): void;
  fill(offset: bigint, length: bigint, value: number): void;
  madvise(offset: bigint, length: bigint, advice: number): void;
  madviseAsync(offset: bigint, length: bigint, advice: number): Promise<void>;
  /** mincore: bytes resident in the range. */
  resident(offset: bigint, length: bigint): bigint;
  close(): void;
  token(): bigint;
}

export interface NativeAddon {
  readonly layout: NativeLayout;
  openSystem(path: string): NativeSystem;
  /** Takes a duplicate of a descriptor of /dev/kvm; the caller keeps the original. */
  systemFromFd(fd: number): NativeSystem;
  createEventfd(initial: number, semaphore: boolean): NativeEventfd;
  createMemfd(name: string, hugetlb: number, allowSealing: boolean): NativeHostFile;
  openFile(path: string, writable: boolean): NativeHostFile;
  mapAnonymous(length: bigint, options: NativeAnonymousOptions): NativeMapping;
  /** `stable` is refused where the addon can see that it is not so (not a sealed memfd, not INIT_SHARED guest_memfd). */
  mapFile(file: NativeMemoryFile, offset: bigint, length: bigint, shared: boolean, writable: boolean): NativeMapping;
  /**
   * `runSync(-1)` of the vCPU with this `runSlot`, for less. Gives undefined where the result is the exit_reason that
   * `run` holds.
   */
  runVcpu(slot: number): number | undefined;
  /** The object of a token made in another thread, as a new handle of its own. */
  adoptVm(token: bigint): NativeVm;
  adoptVcpu(token: bigint): NativeVcpu;
  adoptMapping(token: bigint): NativeMapping;
  adoptEventfd(token: bigint): NativeEventfd;
  /** How many descriptors, mappings and vCPU threads the addon holds in this process: for leak tests. */
  census(): { files: number; mappings: number; threads: number };
}

/** What the compiler said about the kernel's structs and numbers, to be compared with lib/abi. */
export interface NativeLayout {
  readonly sizes: Readonly<Record<string, number>>;
  /** 'kvm_regs.rip' -> 128 */
  readonly offsets: Readonly<Record<string, number>>;
  readonly constants: Readonly<Record<string, bigint>>;
}

let loaded: NativeAddon | undefined;

function packageRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'binding.gyp')) && directory !== dirname(directory))
    directory = dirname(directory);
  return directory;
}

/**
 * The addon, loaded at the first use, so that importing the package works everywhere.
 *
 * @throws KvmUnsupportedError on other platforms than Linux x86-64, and where the addon was not built.
 */
export function native(): NativeAddon {
  if (loaded !== undefined) return loaded;
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new KvmUnsupportedError(
      `node-kvm needs Linux on x86-64, and this is ${process.platform} on ${process.arch}`,
      'linux-x64',
    );
  }
  try {
    loaded = createRequire(import.meta.url)(addonFile()) as NativeAddon;
  } catch (cause) {
    throw new KvmUnsupportedError(
      `The native addon of node-kvm could not be loaded: ${(cause as Error).message.replace(/\.? Tried:[^]*|\n[^]*/, '')}. ` +
        `Build it with "npm rebuild node-kvm" (in a checkout: "npm run build:addon"); it needs a C++20 compiler, make ` +
        `and python3.`,
      'addon',
      { cause },
    );
  }
  return loaded;
}

/** The file of the addon. Tests take another build by NODE_KVM_ADDON: a path, or the name of a folder in build/. */
export function addonFile(): string {
  const named = process.env['NODE_KVM_ADDON'];
  if (named) return named.includes('/') ? resolve(named) : join(packageRoot(), 'build', named, 'node_kvm.node');
  const bindings = createRequire(import.meta.url)('bindings') as typeof import('bindings');
  return bindings({ bindings: 'node_kvm', module_root: packageRoot(), path: true } as import('bindings').Options);
}
