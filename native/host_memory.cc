// Reading, writing and advising on mapped memory. What may raise SIGBUS is only touched by the kernel on our behalf.
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "mapping_core.h"
#include "uapi.h"

namespace node_kvm {

namespace {

// Of the calls to the kernel below; also keeps process_vm_* far from its limit on one transfer.
constexpr std::size_t kChunk = std::size_t{1} << 30;

bool discards(int advice) { return advice == MADV_DONTNEED || advice == MADV_REMOVE || advice == MADV_FREE; }

// The kernel's copy between two ranges of this process: EFAULT where a plain access would raise a signal.
template <typename Call>
void transfer(Call call, const char* name, std::uint8_t* local, std::uint8_t* mapped, std::size_t length) {
  while (length > 0) {
    const iovec here = {local, std::min(length, kChunk)};
    const iovec there = {mapped, here.iov_len};
    const ssize_t done = call(::getpid(), &here, 1, &there, 1, 0);
    if (done <= 0) throw SystemError(done == 0 ? EFAULT : errno, name);
    local += done;
    mapped += done;
    length -= static_cast<std::size_t>(done);
  }
}

}  // namespace

std::uint64_t MappingCore::address(std::uint64_t offset, std::uint64_t size) const {
  if (offset > length() || size > length() - offset) {
    throw ArgumentRangeError("Expected a range inside the mapping's " + std::to_string(length()) +
                             " bytes for offset and length but received " + std::to_string(offset) + " and " +
                             std::to_string(size));
  }
  return reinterpret_cast<std::uint64_t>(region_.data()) + offset;
}

void MappingCore::read(std::uint64_t offset, Bytes into) const {
  std::uint8_t* const from = at(offset, into.size());
  if (into.empty()) return;
  if (touchable()) {
    // The array may be a view of this very mapping.
    std::memmove(into.data(), from, into.size());
  } else {
    transfer(::process_vm_readv, "process_vm_readv", into.data(), from, into.size());
  }
}

void MappingCore::write(std::uint64_t offset, std::span<const std::uint8_t> from) const {
  std::uint8_t* const to = at(offset, from.size());
  if (from.empty()) return;
  if (touchable()) {
    std::memmove(to, from.data(), from.size());
  } else {
    transfer(::process_vm_writev, "process_vm_writev", const_cast<std::uint8_t*>(from.data()), to, from.size());
  }
}

void MappingCore::fill(std::uint64_t offset, std::uint64_t length, std::uint8_t value) const {
  std::uint8_t* const to = at(offset, length);
  if (touchable()) {
    std::memset(to, value, length);
    return;
  }
  const std::vector<std::uint8_t> pattern(std::min<std::uint64_t>(length, std::uint64_t{1} << 20), value);
  for (std::uint64_t done = 0; done < length; done += pattern.size()) {
    write(offset + done, std::span(pattern).first(std::min<std::uint64_t>(length - done, pattern.size())));
  }
}

int MappingCore::advise(std::uint64_t offset, std::uint64_t length, int advice) noexcept {
  std::unique_lock lock(lent_mutex_, std::defer_lock);
  if (nature_.hugetlb && discards(advice)) {
    // A huge page that was given back may not be had again, and then touching it raises SIGBUS.
    lock.lock();
    if (lent_ > 0 || kept_) return EBUSY;
    stable_.store(false, std::memory_order_release);
  }
  while (::madvise(region_.data() + offset, length, advice) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

void MappingCore::keep_huge_pages() noexcept {
  const std::lock_guard lock(lent_mutex_);
  kept_ = true;
}

std::uint64_t MappingCore::resident(std::uint64_t offset, std::uint64_t length) const {
  std::uint8_t* const start = at(offset, length);
  std::vector<unsigned char> pages(std::min<std::uint64_t>(length / kPageSize, 1 << 16));
  std::uint64_t found = 0;
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t count = std::min<std::uint64_t>((length - done) / kPageSize, pages.size());
    check(::mincore(start + done, count * kPageSize, pages.data()), "mincore");
    found += static_cast<std::uint64_t>(std::count_if(pages.begin(), pages.begin() + static_cast<std::ptrdiff_t>(count),
                                                      [](unsigned char page) { return (page & 1) != 0; }));
    done += count * kPageSize;
  }
  return found * kPageSize;
}

std::shared_ptr<void> MappingCore::lend(const std::shared_ptr<MappingCore>& self) {
  struct Lease {
    std::shared_ptr<MappingCore> of;
    ~Lease() {
      if (of == nullptr) return;
      const std::lock_guard lock(of->lent_mutex_);
      of->lent_--;
    }
  };
  auto lease = std::make_shared<Lease>();
  const std::lock_guard lock(lent_mutex_);
  if (!stable()) throw StateError("ERR_KVM_STATE", "This mapping is not stable: use read and write");
  lent_++;
  region_.mark_lent();
  lease->of = self;
  return lease;
}

}  // namespace node_kvm
