// Who may make a KVM_RUN return, and why it did.
//
// A kick makes the run in progress return. A sticky one stays until some run has returned -EINTR for it: where the
// guest exits by itself in the same moment, or no run is in progress, that is the next one, so none is ever lost. The
// runner publishes its thread under a mutex and takes it back under the same one, so a signal is only ever sent to a
// thread that is between the two, and immediate_exit covers the moment before it enters the kernel. A run that was ordered
// of the vCPU's own thread counts as in progress from the order on.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <mutex>

#include "uapi.h"

namespace node_kvm {

class RunGate {
 public:
  // The first four are what JavaScript sees as `interruptCause`. A slice is the watchdog looking in: never seen.
  enum Cause : std::uint32_t { kKick = 1, kTimeout = 2, kSignal = 4, kClosing = 8, kSlice = 16 };
  static constexpr std::int64_t kNever = INT64_MAX;

  explicit RunGate(kvm_run* run) : run_(run) {}
  RunGate(const RunGate&) = delete;
  RunGate& operator=(const RunGate&) = delete;

  /**
   * `kTimed`: the watchdog ends it at its deadline. `kSliced`: it also interrupts it to let the caller look around.
   * `kOther`: some other long vCPU ioctl.
   */
  enum class Mode { kTimed, kSliced, kPlain, kOther };
  /** A run was ordered of another thread: from here on it can be kicked, as if it had begun. */
  void expect() noexcept;
  /** Before the call. `deadline` in the watchdog's clock, for `kTimed` and `kSliced`. True where it is to end at once. */
  bool begin(pid_t thread, Mode mode, std::int64_t deadline) noexcept;
  /** After an EINTR: all causes so far; the slice is taken off, so that KVM_RUN may be entered again. */
  std::uint32_t look() noexcept;
  /** The run is over; `interrupted`: with -EINTR, which a sticky kick waits for. Returns the causes. */
  std::uint32_t end(bool interrupted) noexcept;

  void kick(bool sticky) noexcept;
  /** Interrupts the run in progress for another cause; nothing where none is. */
  void interrupt(Cause cause) noexcept;

  /** The watchdog's look: deadlines and slices. `next` is lowered to when it has to look again. True if anything runs
   * or has run since the last look. */
  bool tick(std::int64_t now, std::int64_t& next) noexcept;

 private:
  void interrupt_locked(std::uint32_t cause) noexcept;

  std::mutex mutex_;
  kvm_run* const run_;
  pid_t runner_ = 0;
  bool expected_ = false;
  std::uint32_t causes_ = 0;
  bool sticky_ = false;
  Mode mode_ = Mode::kPlain;
  std::int64_t deadline_ = kNever;
  std::uint64_t sequence_ = 0;
  std::uint64_t last_seen_ = 0;
};

}  // namespace node_kvm
