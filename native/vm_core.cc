#include "vm_core.h"

namespace node_kvm {

namespace {

int set_kernel_region(int fd, const VmCore::Region& region, std::uint64_t address) {
  if (region.version == 1) {
    kvm_userspace_memory_region old = {
        .slot = region.slot,
        .flags = region.flags,
        .guest_phys_addr = region.gpa,
        .memory_size = region.size,
        .userspace_addr = address,
    };
    return check(::ioctl(fd, KVM_SET_USER_MEMORY_REGION, &old), "KVM_SET_USER_MEMORY_REGION");
  }
  kvm_userspace_memory_region2 now = {
      .slot = region.slot,
      .flags = region.flags,
      .guest_phys_addr = region.gpa,
      .memory_size = region.size,
      .userspace_addr = address,
      .guest_memfd_offset = region.guest_memfd_offset,
      .guest_memfd = static_cast<__u32>(region.guest_memfd),
  };
  return check(::ioctl(fd, KVM_SET_USER_MEMORY_REGION2, &now), "KVM_SET_USER_MEMORY_REGION2");
}

}  // namespace

void VmCore::set_region(const Region& region) {
  const std::lock_guard lock(mutex_);
  if (region.size == 0) {
    set_kernel_region(fd(), region, 0);
    slots_.erase(region.slot);
    return;
  }
  Slot next = {.size = region.size, .mapping = region.mapping};
  std::uint64_t address = 0;
  if (region.mapping != nullptr) {
    address = region.mapping->address(region.mapping_offset, region.size);
  } else if (region.guest_memfd >= 0) {
    // Shared accesses go to userspace_addr even in a slot without shared memory. Address 0 would be this process's own
    // low memory, its program included; addresses that are taken but mapped to nothing fail, as they should.
    const auto known = slots_.find(region.slot);
    if (known != slots_.end() && known->second.reserved != nullptr && known->second.size == region.size) {
      next.reserved = known->second.reserved;
    } else {
      next.reserved =
          std::make_shared<MappedRegion>(region.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    address = reinterpret_cast<std::uint64_t>(next.reserved->data());
  } else {
    throw ArgumentTypeError("Expected a mapping, a guest_memfd or both for a slot of non-zero size");
  }
  // The entry first: once the kernel has the slot, nothing may fail before the memory is held.
  auto [entry, fresh] = slots_.try_emplace(region.slot);
  try {
    set_kernel_region(fd(), region, address);
  } catch (...) {
    if (fresh) slots_.erase(entry);
    throw;
  }
  entry->second = std::move(next);
}

void VmCore::dirty_log(std::uint32_t slot, Bytes bitmap) {
  kvm_dirty_log log = {.slot = slot};
  log.dirty_bitmap = bitmap.data();
  // Also during the call: another thread could set a larger slot in between, and the kernel writes as much as that has.
  const std::lock_guard lock(mutex_);
  // A slot that was never set here does not exist: the kernel says so without touching the bitmap.
  const auto known = slots_.find(slot);
  const std::uint64_t pages = known == slots_.end() ? 0 : known->second.size / kPageSize;
  require_length(bitmap, (pages + 63) / 64 * 8, "bitmap");
  check(::ioctl(fd(), KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
}

void VmCore::encrypt_region(bool add, std::shared_ptr<MappingCore> mapping, std::uint64_t offset, std::uint64_t size) {
  kvm_enc_region region = {.addr = mapping->address(offset, size), .size = size};
  const std::lock_guard lock(mutex_);
  if (add) {
    encrypted_.reserve(encrypted_.size() + 1);
    check(::ioctl(fd(), KVM_MEMORY_ENCRYPT_REG_REGION, &region), "KVM_MEMORY_ENCRYPT_REG_REGION");
    encrypted_.push_back({region.addr, region.size, std::move(mapping)});
    return;
  }
  check(::ioctl(fd(), KVM_MEMORY_ENCRYPT_UNREG_REGION, &region), "KVM_MEMORY_ENCRYPT_UNREG_REGION");
  for (auto it = encrypted_.begin(); it != encrypted_.end(); ++it) {
    if (it->address != region.addr || it->size != region.size) continue;
    encrypted_.erase(it);
    return;
  }
}

}  // namespace node_kvm
