// A VM and the host memory that its kernel object can reach.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "core.h"
#include "mapping_core.h"
#include "uapi.h"

namespace node_kvm {

class GuestMemfdCore;

class VmCore : public FileCore {
 public:
  VmCore(Fd fd, std::size_t vcpu_mmap_size) : FileCore(Kind::kVm, std::move(fd)), vcpu_mmap_size_(vcpu_mmap_size) {}

  /** A slot as it is to be; `mapping` may be null where there is a guest_memfd. */
  struct Region {
    int version;
    std::uint32_t slot;
    std::uint32_t flags;
    std::uint64_t gpa;
    std::uint64_t size;
    std::shared_ptr<MappingCore> mapping;
    std::uint64_t mapping_offset;
    /** -1 for none. */
    int guest_memfd;
    std::uint64_t guest_memfd_offset;
  };
  void set_region(const Region& region);

  /** KVM_GET_DIRTY_LOG; throws where the bitmap is too short. */
  void dirty_log(std::uint32_t slot, Bytes bitmap);

  /** KVM_MEMORY_ENCRYPT_REG_REGION and UNREG_REGION. */
  void encrypt_region(bool add, std::shared_ptr<MappingCore> mapping, std::uint64_t offset, std::uint64_t size);

  std::size_t vcpu_mmap_size() const { return vcpu_mmap_size_; }
  /** Of each vCPU, once enabled. */
  std::atomic<std::uint64_t> dirty_ring_bytes{0};

 private:
  struct Slot {
    std::uint64_t size;
    std::shared_ptr<MappingCore> mapping;
    /** Stands in for the mapping of a slot that has none. */
    std::shared_ptr<MappedRegion> reserved;
  };
  struct Encrypted {
    std::uint64_t address;
    std::uint64_t size;
    std::shared_ptr<MappingCore> mapping;
  };

  const std::size_t vcpu_mmap_size_;
  std::mutex mutex_;
  // The kernel's VM can touch these for as long as somebody can run a vCPU: vCPU cores hold this core.
  std::map<std::uint32_t, Slot> slots_;
  std::vector<Encrypted> encrypted_;
};

}  // namespace node_kvm
