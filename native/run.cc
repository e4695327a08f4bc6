#include "run.h"

#include <atomic>
#include <cerrno>

namespace node_kvm {

RunResult run_once(int fd, kvm_run* run) noexcept {
  const std::atomic_ref reason(run->exit_reason);
  reason.store(kNoExit, std::memory_order_relaxed);
  if (::ioctl(fd, KVM_RUN, 0) >= 0) return reason.load(std::memory_order_relaxed);
  const int number = errno;
  if ((number == EFAULT || number == EHWPOISON) && reason.load(std::memory_order_relaxed) == KVM_EXIT_MEMORY_FAULT) {
    return KVM_EXIT_MEMORY_FAULT | number << 16;
  }
  return -number;
}

}  // namespace node_kvm
