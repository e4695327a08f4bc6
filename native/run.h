// One KVM_RUN, and its result as one number.
#pragma once

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

RunResult run_once(int fd, kvm_run* run) noexcept;

}  // namespace node_kvm
