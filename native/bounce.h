// Copies of buffers whose length the kernel is not told, in memory that ends at a page nobody may touch: a length that
// is too short fails with EFAULT instead of reaching whatever comes next.
#pragma once

#include "args.h"
#include "mapped_region.h"

namespace node_kvm {

class GuardedBuffer {
 public:
  explicit GuardedBuffer(std::size_t size);
  explicit GuardedBuffer(Bytes from);
  Bytes bytes() const { return {start_, size_}; }
  std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(start_); }
  void copy_to(Bytes to) const;

 private:
  MappedRegion region_;
  std::uint8_t* start_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace node_kvm
