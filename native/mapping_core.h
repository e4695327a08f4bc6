// Mapped host memory and how it may be reached.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "args.h"
#include "core.h"
#include "mapped_region.h"

namespace node_kvm {

class MappingCore : public Core {
 public:
  struct Nature {
    /** Touching it can never raise SIGBUS, nor SIGSEGV. */
    bool stable;
    bool writable;
    bool hugetlb;
  };
  MappingCore(MappedRegion region, Nature nature)
      : Core(Kind::kMapping), region_(std::move(region)), nature_(nature), stable_(nature.stable) {}

  std::uint64_t length() const { return region_.size(); }
  bool stable() const { return stable_.load(std::memory_order_acquire); }
  const Nature& nature() const { return nature_; }

  /** The host's address of a range; throws RangeError where it does not lie inside. */
  std::uint64_t address(std::uint64_t offset, std::uint64_t size) const;
  std::uint8_t* at(std::uint64_t offset, std::uint64_t size) const {
    return reinterpret_cast<std::uint8_t*>(address(offset, size));
  }

  void read(std::uint64_t offset, Bytes into) const;
  void write(std::uint64_t offset, std::span<const std::uint8_t> from) const;
  void fill(std::uint64_t offset, std::uint64_t length, std::uint8_t value) const;
  /** Returns 0 or an errno. */
  int advise(std::uint64_t offset, std::uint64_t length, int advice) noexcept;
  std::uint64_t resident(std::uint64_t offset, std::uint64_t length) const;

  /** One for each ArrayBuffer; throws where the memory is not stable. */
  std::shared_ptr<void> lend(const std::shared_ptr<MappingCore>& self);
  /**
   * Before ArrayBuffers are detached: what works on them in pool threads goes on (see retired.cc), and would meet a
   * SIGBUS. From then on huge pages are not given back before the mapping is.
   */
  void keep_huge_pages() noexcept;

 private:
  // Huge pages may be given back by another thread between the check and the access.
  bool touchable() const { return stable() && !nature_.hugetlb; }

  MappedRegion region_;
  const Nature nature_;
  std::atomic<bool> stable_;
  // ArrayBuffers in all environments: huge pages are only given back while there are none.
  std::mutex lent_mutex_;
  int lent_ = 0;
  bool kept_ = false;
};

}  // namespace node_kvm
