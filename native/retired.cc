// The addresses of memory that JavaScript has had ArrayBuffers of.
//
// Detaching a buffer does not stop what already works on it: crypto and reads of files hold plain pointers in pool
// threads. If the addresses were unmapped at once, those would crash the process, or write to whatever is mapped there
// next. So only the memory is given back; the addresses stay taken, by empty pages, until many others have followed.
#include <deque>
#include <mutex>

#include "mapped_region.h"

namespace node_kvm {

namespace {

constexpr std::size_t kMaxCount = 1024;
// Of the 2^47 bytes of addresses that a process has.
constexpr std::size_t kMaxBytes = std::size_t{1} << 44;

struct Range {
  void* address;
  std::size_t length;
};

struct Retired {
  std::mutex mutex;
  std::deque<Range> ranges;
  std::size_t bytes = 0;
};

// Never destroyed: regions may be given back while exit() runs destructors.
Retired& retired() {
  static auto& it = *new Retired;
  return it;
}

}  // namespace

void retire(void* address, std::size_t length) noexcept {
  // In one step: between two, a thread that still works there would meet no access and end the process. Without
  // accounting, so that it is not refused for want of memory; where it is all the same, the addresses at least stay
  // taken.
  constexpr int kFlags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const void* kept = ::mmap(address, length, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (kept == MAP_FAILED) kept = ::mmap(address, length, PROT_NONE, kFlags, -1, 0);
  if (kept == MAP_FAILED || length > kMaxBytes) {
    ::munmap(address, length);
    return;
  }
  ::madvise(address, length, MADV_DONTFORK);
  ::madvise(address, length, MADV_DONTDUMP);
  auto& all = retired();
  const std::lock_guard lock(all.mutex);
  try {
    all.ranges.push_back({address, length});
  } catch (...) {
    ::munmap(address, length);
    return;
  }
  all.bytes += length;
  while (all.ranges.size() > kMaxCount || all.bytes > kMaxBytes) {
    const Range oldest = all.ranges.front();
    all.ranges.pop_front();
    all.bytes -= oldest.length;
    ::munmap(oldest.address, oldest.length);
  }
}

}  // namespace node_kvm
