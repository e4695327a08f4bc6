// One KVM_RUN, and its result as one number.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "uapi.h"

namespace node_kvm {

/** What exit_reason holds while no exit has been reported, so that a stale one is never taken for new. */
inline constexpr std::uint32_t kNoExit = 0xffffffff;

/**
 * exit_reason where the call returned 0; KVM_EXIT_MEMORY_FAULT | errno << 16 where it failed with EFAULT or EHWPOISON
 * and the kernel annotated it; -errno for every other failure. Wider than 32 bits since exit_reason is unsigned.
 */
using RunResult = std::int64_t;

inline RunResult run_once(int fd, kvm_run* run) noexcept {
  const std::atomic_ref reason(run->exit_reason);
  reason.store(kNoExit, std::memory_order_relaxed);
  if (::ioctl(fd, KVM_RUN, 0) >= 0) [[likely]]
    return reason.load(std::memory_order_relaxed);
  const int number = errno;
  if ((number == EFAULT || number == EHWPOISON) && reason.load(std::memory_order_relaxed) == KVM_EXIT_MEMORY_FAULT) {
    return KVM_EXIT_MEMORY_FAULT | number << 16;
  }
  return -number;
}

}  // namespace node_kvm
