#include "bounce.h"

#include <algorithm>
#include <cstring>

#include "uapi.h"

namespace node_kvm {

GuardedBuffer::GuardedBuffer(std::size_t size)
    : region_((size + kPageSize - 1) / kPageSize * kPageSize + kPageSize, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
      size_(size) {
  std::uint8_t* const guard = region_.data() + region_.size() - kPageSize;
  check(::mprotect(guard, kPageSize, PROT_NONE), "mprotect");
  start_ = guard - size;
}

GuardedBuffer::GuardedBuffer(Bytes from) : GuardedBuffer(from.size()) { std::copy(from.begin(), from.end(), start_); }

void GuardedBuffer::copy_to(Bytes to) const { std::copy_n(start_, std::min(to.size(), size_), to.data()); }

}  // namespace node_kvm
