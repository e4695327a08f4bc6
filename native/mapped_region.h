// The owner of an mmap.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "census.h"
#include "error.h"

namespace node_kvm {

/** Gives the memory back now, and its addresses later. */
void retire(void* address, std::size_t length) noexcept;

class MappedRegion {
 public:
  MappedRegion() = default;
  MappedRegion(std::size_t length, int protection, int flags, int fd, off_t offset) : length_(length) {
    void* const address = ::mmap(nullptr, length, protection, flags, fd, offset);
    if (address == MAP_FAILED) throw SystemError(errno, "mmap");
    address_ = static_cast<std::uint8_t*>(address);
    census.mappings++;
    // A child that forks would hold guest memory and vCPUs that it can do nothing with.
    ::madvise(address_, length_, MADV_DONTFORK);
  }
  MappedRegion(MappedRegion&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)),
        length_(std::exchange(other.length_, 0)),
        lent_(std::exchange(other.lent_, false)) {}
  MappedRegion& operator=(MappedRegion&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(length_, other.length_);
    std::swap(lent_, other.lent_);
    return *this;
  }
  ~MappedRegion() {
    if (address_ == nullptr) return;
    if (lent_) {
      retire(address_, length_);
    } else {
      ::munmap(address_, length_);
    }
    census.mappings--;
  }

  /** Once JavaScript has had it: see retired.cc. */
  void mark_lent() { std::atomic_ref(lent_).store(true, std::memory_order_relaxed); }

  std::uint8_t* data() const { return address_; }
  std::size_t size() const { return length_; }

 private:
  std::uint8_t* address_ = nullptr;
  std::size_t length_ = 0;
  bool lent_ = false;
};

}  // namespace node_kvm
