/** The structs of a VM's memory: memslots, guest_memfd, attributes, dirty logs; and that of KVM_ENABLE_CAP. */
import { struct } from './codec.ts';
import type { Decoded } from './codec.ts';
import { array, u32, u64 } from './fields.ts';

export const kvmUserspaceMemoryRegion = struct('kvm_userspace_memory_region', 32, {
  slot: u32(0),
  flags: u32(4),
  guestPhysAddr: u64(8),
  memorySize: u64(16),
  userspaceAddr: u64(24),
});
/** *KVM_SET_USER_MEMORY_REGION*. */
export interface UserspaceMemoryRegion extends Decoded<typeof kvmUserspaceMemoryRegion> {}

export const kvmUserspaceMemoryRegion2 = struct('kvm_userspace_memory_region2', 160, {
  ...kvmUserspaceMemoryRegion.fields,
  guestMemfdOffset: u64(32),
  guestMemfd: u32(40),
});
/** *KVM_SET_USER_MEMORY_REGION2*. */
export interface UserspaceMemoryRegion2 extends Decoded<typeof kvmUserspaceMemoryRegion2> {}

export const kvmCreateGuestMemfd = struct('kvm_create_guest_memfd', 64, { size: u64(0), flags: u64(8) });
/** *KVM_CREATE_GUEST_MEMFD*. */
export interface CreateGuestMemfd extends Decoded<typeof kvmCreateGuestMemfd> {}

export const kvmMemoryAttributes = struct('kvm_memory_attributes', 32, {
  address: u64(0),
  size: u64(8),
  attributes: u64(16),
  /** Must be 0. */
  flags: u64(24),
});
/** *KVM_SET_MEMORY_ATTRIBUTES*. */
export interface MemoryAttributes extends Decoded<typeof kvmMemoryAttributes> {}

export const kvmDirtyLog = struct('kvm_dirty_log', 16, { slot: u32(0), dirtyBitmap: u64(8) });
export interface DirtyLog extends Decoded<typeof kvmDirtyLog> {}

export const kvmClearDirtyLog = struct('kvm_clear_dirty_log', 24, {
  slot: u32(0),
  numPages: u32(4),
  /** A multiple of 64. */
  firstPage: u64(8),
  dirtyBitmap: u64(16),
});
export interface ClearDirtyLog extends Decoded<typeof kvmClearDirtyLog> {}

export const kvmDirtyGfn = struct('kvm_dirty_gfn', 16, {
  /** KVM_DIRTY_GFN_F_*. */
  flags: u32(0),
  /** The slot's id, with the address space in the upper 16 bits. */
  slot: u32(4),
  /** In pages, from the start of the slot. */
  offset: u64(8),
});
/** An entry of the dirty ring, *KVM_CAP_DIRTY_LOG_RING*. */
export interface DirtyGfn extends Decoded<typeof kvmDirtyGfn> {}

export const kvmEncRegion = struct('kvm_enc_region', 16, { addr: u64(0), size: u64(8) });
export interface EncRegion extends Decoded<typeof kvmEncRegion> {}

export const kvmEnableCap = struct('kvm_enable_cap', 104, { cap: u32(0), flags: u32(4), args: array(8, u64(0), 4) });
/** *KVM_ENABLE_CAP*. */
export interface EnableCap extends Decoded<typeof kvmEnableCap> {}
