/** What can be behind a region, and how it is opened, shared and given back. */
import * as args from '../arguments.ts';
import { KvmStateError, KvmUnsupportedError } from '../errors.ts';
import { CAPS, GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP } from '../abi/index.ts';
import type { GuestMemfdPort, HostMemoryPort, HugePageSize, MappingPort, VmPort } from './ports.ts';
import { privatePagesOf } from './private-pages.ts';

/** The shared side: what the host sees, and what the guest sees unless the range is private. */
export type Backing =
  /** Anonymous memory, MAP_PRIVATE. `noreserve`: do not count it against the overcommit limit; default false. */
  | { readonly kind: 'anonymous'; readonly noreserve?: boolean }
  /** Anonymous memory, MAP_SHARED. */
  | { readonly kind: 'shared'; readonly noreserve?: boolean }
  /** Anonymous huge pages; `size` must be a multiple of `pageSize` (default 2 MiB). */
  | { readonly kind: 'hugetlb'; readonly pageSize?: HugePageSize }
  /** A new memfd, sealed against shrinking. `pageSize` for one of huge pages. */
  | { readonly kind: 'memfd'; readonly name?: string; readonly pageSize?: HugePageSize }
  /** A file, MAP_SHARED where `writable` (default false: MAP_PRIVATE, so that no write reaches the file). */
  | { readonly kind: 'file'; readonly path: string; readonly offset?: number; readonly writable?: boolean }
  /**
   * A mapping that the caller has. It stays the caller's to close. `discard`: how to drop its pages; default
   * `'none'`.
   */
  | { readonly kind: 'mapping'; readonly mapping: MappingPort; readonly offset?: number; readonly discard?: DropKind }
  /**
   * A mapped guest_memfd. Of this VM (a new one by default): it is bound to the slot and serves every access. Of another
   * VM of this process: its pages are this VM's ordinary shared memory.
   * Needs GUEST_MEMFD_FLAG_MMAP and INIT_SHARED (KVM_CAP_GUEST_MEMFD_FLAGS on the VM that made it).
   */
  | { readonly kind: 'guest-memfd'; readonly guestMemfd?: GuestMemfdPort; readonly offset?: bigint }
  /** Nothing: for a region that is only ever private. */
  | { readonly kind: 'none' };

/** What is behind the shared side of a region. */
export type BackingKind = Backing['kind'];

/** How pages of the shared side are given back: MADV_DONTNEED, MADV_REMOVE, or not at all. */
export type DropKind = 'dontneed' | 'remove' | 'none';

/** The private side: a new guest_memfd of the region's size, or a range of one that the caller has. */
export type PrivateSide = true | { readonly guestMemfd: GuestMemfdPort; readonly offset?: bigint };

export interface OpenedBacking {
  readonly kind: BackingKind;
  readonly mapping: MappingPort | undefined;
  readonly mappingOffset: number;
  readonly guestMemfd: GuestMemfdPort | undefined;
  readonly guestMemfdOffset: bigint;
  readonly ownsGuestMemfd: boolean;
  readonly oneMemory: boolean;
  readonly drop: DropKind;
  /** The shared side is given back in multiples of this. */
  readonly granule: number;
}

const KINDS = ['anonymous', 'shared', 'hugetlb', 'memfd', 'file', 'mapping', 'guest-memfd', 'none'] as const;
const KEYS: Readonly<Record<BackingKind, readonly string[]>> = {
  anonymous: ['noreserve'],
  shared: ['noreserve'],
  hugetlb: ['pageSize'],
  memfd: ['name', 'pageSize'],
  file: ['path', 'offset', 'writable'],
  mapping: ['mapping', 'offset', 'discard'],
  'guest-memfd': ['guestMemfd', 'offset'],
  none: [],
};

/** Opens both sides, or neither. */
export function openBacking(
  vm: VmPort,
  host: HostMemoryPort | undefined,
  backing: Backing,
  size: number,
  side: PrivateSide | undefined,
): OpenedBacking {
  args.options('backing', backing, ['kind', ...KEYS[args.oneOf('backing.kind', backing?.kind, KINDS)]] as never);
  if (side !== undefined && backing.kind === 'guest-memfd' && (backing.guestMemfd ?? { vm }).vm === vm) {
    throw new TypeError(
      "Expected no private for a backing of kind 'guest-memfd' but received one: the guest_memfd " +
        'of this VM already serves private accesses, and a slot can hold only one',
    );
  }
  const shared = openShared(vm, host, backing, size);
  if (side === undefined) return shared;
  try {
    return { ...shared, ...openPrivate(vm, side, size) };
  } catch (error) {
    release(shared);
    throw error;
  }
}

/** Closes what the region owns: always its own mapping handle, and the guest_memfd where it made that. */
export function release(opened: OpenedBacking, closeGuestMemfd = opened.ownsGuestMemfd): void {
  opened.mapping?.close();
  if (closeGuestMemfd) opened.guestMemfd?.close();
}

function openShared(vm: VmPort, host: HostMemoryPort | undefined, backing: Backing, size: number): OpenedBacking {
  switch (backing.kind) {
    case 'anonymous':
    case 'shared': {
      const shared = backing.kind === 'shared';
      const noreserve = args.boolean('backing.noreserve', backing.noreserve ?? false);
      return plain(
        backing.kind,
        needed(host).anonymous(size, { shared, hugetlb: 0, noreserve }),
        shared ? 'remove' : 'dontneed',
      );
    }
    case 'hugetlb': {
      const hugetlb = checkHuge(backing.pageSize ?? 0x200000, size);
      return plain(
        'hugetlb',
        needed(host).anonymous(size, { shared: false, hugetlb, noreserve: false }),
        'dontneed',
        hugetlb,
      );
    }
    case 'memfd': {
      const hugetlb = backing.pageSize === undefined ? 0 : checkHuge(backing.pageSize, size);
      const mapping = needed(host).memfd(args.string('backing.name', backing.name ?? 'guest-memory'), size, {
        hugetlb,
      });
      return plain('memfd', mapping, 'remove', hugetlb === 0 ? args.PAGE_SIZE : hugetlb);
    }
    case 'file': {
      const offset = args.pageAlignedOffset('backing.offset', backing.offset ?? 0);
      const writable = args.boolean('backing.writable', backing.writable ?? false);
      // Not dropped: the pages are the user's file.
      return plain(
        'file',
        needed(host).file(args.string('backing.path', backing.path), { offset, size, writable }),
        'none',
      );
    }
    case 'mapping': {
      const { mapping } = backing;
      const offset = args.pageAlignedOffset('backing.offset', backing.offset ?? 0);
      if (typeof mapping !== 'object' || mapping === null) {
        throw args.typeError('a HostMapping', 'backing.mapping', mapping);
      }
      if (mapping.closed) throw new KvmStateError('The mapping for the region is closed', 'ERR_KVM_CLOSED');
      if (offset + size > mapping.length) {
        throw args.rangeError(
          `at most ${Math.max(0, mapping.length - offset)} bytes (what the mapping holds from ` + `offset ${offset})`,
          'size',
          size,
        );
      }
      const drop = args.oneOf('backing.discard', backing.discard ?? 'none', ['dontneed', 'remove', 'none']);
      return { ...plain('mapping', needed(host).again(mapping), drop), mappingOffset: offset };
    }
    case 'guest-memfd':
      return openGuestMemfdBacking(vm, backing, size);
    case 'none':
      return { ...plain('none', undefined, 'none') };
  }
}

function openGuestMemfdBacking(
  vm: VmPort,
  backing: { readonly guestMemfd?: GuestMemfdPort; readonly offset?: bigint },
  size: number,
): OpenedBacking {
  const owns = backing.guestMemfd === undefined;
  const needs = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
  if (owns && (BigInt(vm.checkExtension(CAPS.KVM_CAP_GUEST_MEMFD_FLAGS)) & needs) !== needs) {
    throw new KvmUnsupportedError(
      'A guest_memfd that the host can map needs GUEST_MEMFD_FLAG_MMAP and INIT_SHARED, ' +
        'and ' +
        'this VM does not offer them (Linux 6.18 does, for VMs of type default); use another backing with `private: true`',
      'KVM_CAP_GUEST_MEMFD_FLAGS',
    );
  }
  const guestMemfd = backing.guestMemfd ?? vm.createGuestMemfd(BigInt(size), { flags: needs });
  try {
    const offset = backing.offset ?? 0n;
    checkGuestMemfd(guestMemfd, offset, size, 'backing');
    if ((guestMemfd.flags & needs) !== needs) {
      throw new KvmStateError(
        'The guest_memfd cannot be mapped by the host: it was made without ' +
          'GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED',
        'ERR_KVM_STATE',
      );
    }
    const ours = guestMemfd.vm === vm;
    // The mapping must start where the slot starts: the processor takes pages from the file, KVM's emulator from the
    // mapping, and nobody checks that they agree.
    const mapping = guestMemfd.map(offset, size);
    return {
      kind: 'guest-memfd',
      mapping,
      mappingOffset: 0,
      drop: 'none',
      granule: args.PAGE_SIZE,
      guestMemfd: ours ? guestMemfd : undefined,
      guestMemfdOffset: offset,
      ownsGuestMemfd: owns,
      oneMemory: ours,
    };
  } catch (error) {
    if (owns) guestMemfd.close();
    throw error;
  }
}

function openPrivate(
  vm: VmPort,
  side: PrivateSide,
  size: number,
): Pick<OpenedBacking, 'guestMemfd' | 'guestMemfdOffset' | 'ownsGuestMemfd'> {
  if (side === true) {
    if (vm.checkExtension(CAPS.KVM_CAP_GUEST_MEMFD) === 0) {
      throw new KvmUnsupportedError(
        'This VM has no guest_memfd, so no private memory; its type or the kernel does ' + 'not offer it',
        'KVM_CAP_GUEST_MEMFD',
      );
    }
    const guestMemfd = vm.createGuestMemfd(BigInt(size));
    privatePagesOf(guestMemfd, 'none');
    return { guestMemfd, guestMemfdOffset: 0n, ownsGuestMemfd: true };
  }
  args.options('private', side, ['guestMemfd', 'offset']);
  const offset = side.offset ?? 0n;
  checkGuestMemfd(side.guestMemfd, offset, size, 'private');
  if (side.guestMemfd.vm !== vm) {
    throw new KvmStateError(
      'The guest_memfd belongs to another VM. Private memory is bound to the VM that made it; ' +
        "what two VMs can share is a guest_memfd that the host can map, as backing { kind: 'guest-memfd', guestMemfd }",
      'ERR_KVM_FOREIGN',
    );
  }
  return { guestMemfd: side.guestMemfd, guestMemfdOffset: offset, ownsGuestMemfd: false };
}

function checkGuestMemfd(guestMemfd: GuestMemfdPort, offset: bigint, size: number, name: string): void {
  if (typeof guestMemfd !== 'object' || guestMemfd === null) {
    throw args.typeError('a GuestMemfd', `${name}.guestMemfd`, guestMemfd);
  }
  if (guestMemfd.closed) throw new KvmStateError('The guest_memfd for the region is closed', 'ERR_KVM_CLOSED');
  if (typeof offset !== 'bigint') throw args.typeError('a bigint', `${name}.offset`, offset);
  if (offset < 0n || offset % 4096n !== 0n) {
    throw args.rangeError('a multiple of 4096, 0 or more', `${name}.offset`, offset);
  }
  if (offset + BigInt(size) > guestMemfd.size) {
    const left = offset > guestMemfd.size ? 0n : guestMemfd.size - offset;
    throw args.rangeError(`at most ${left} bytes (what the guest_memfd holds from offset ${offset})`, 'size', size);
  }
}

function plain(
  kind: BackingKind,
  mapping: MappingPort | undefined,
  drop: DropKind,
  granule = args.PAGE_SIZE,
): OpenedBacking {
  return {
    kind,
    mapping,
    mappingOffset: 0,
    drop,
    granule,
    guestMemfd: undefined,
    guestMemfdOffset: 0n,
    ownsGuestMemfd: false,
    oneMemory: false,
  };
}

function checkHuge(pageSize: HugePageSize, size: number): HugePageSize {
  if (pageSize !== 0x200000 && pageSize !== 0x40000000) {
    throw args.rangeError('2097152 or 1073741824', 'backing.pageSize', pageSize);
  }
  if (size % pageSize !== 0) throw args.rangeError(`a multiple of the huge page size ${pageSize}`, 'size', size);
  return pageSize;
}

function needed(host: HostMemoryPort | undefined): HostMemoryPort {
  if (host === undefined) throw new KvmStateError('This address space was made without a source of host memory (host)');
  return host;
}
