// Who may make a KVM_RUN return, and why it did.
//
// A kick makes the run in progress return. A sticky one stays until some run has returned -EINTR for it: where the
// guest exits by itself in the same moment, or no run is in progress, that is the next one, so none is ever lost. A run
// that was ordered of the vCPU's own thread counts as in progress from the order on.
//
// The runner publishes its thread and takes it back, and a signal is only ever sent in between: everybody else holds
// the gate while he looks and sends. immediate_exit covers the moment before the runner enters the kernel. A run of
// which nobody wants anything begins with one atomic exchange and ends with one, each of which fails where somebody
// holds the gate or has left a cause; then the runner waits for the gate as well.
#pragma once

#include <sys/types.h>

#include <atomic>
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
  void expect() noexcept {
    std::uint32_t before = 0;
    if (!state_.compare_exchange_strong(before, kExpected, std::memory_order_acq_rel)) [[unlikely]]
      expect_held();
  }
  /** Before the call. `deadline` in the watchdog's clock, for `kTimed` and `kSliced`. True where it is to end at once.
   */
  bool begin(pid_t thread, Mode mode, std::int64_t deadline) noexcept {
    // Nobody minds what these say before kRunning is set.
    runner_.store(thread, std::memory_order_relaxed);
    mode_.store(mode, std::memory_order_relaxed);
    deadline_.store(deadline, std::memory_order_relaxed);
    sequence_.store(sequence_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    std::uint32_t before = state_.load(std::memory_order_relaxed) & kExpected;
    if (state_.compare_exchange_strong(before, kRunning, std::memory_order_seq_cst)) [[likely]]
      return false;
    return begin_held(mode);
  }
  /** After an EINTR: all causes so far; the slice is taken off, so that KVM_RUN may be entered again. */
  std::uint32_t look() noexcept;
  /** The run is over; `interrupted`: with -EINTR, which a sticky kick waits for. Returns the causes. */
  std::uint32_t end(bool interrupted) noexcept {
    set_immediate_exit(0);
    std::uint32_t before = kRunning;
    if (state_.compare_exchange_strong(before, 0, std::memory_order_acq_rel)) [[likely]]
      return 0;
    return end_held(interrupted);
  }

  void kick(bool sticky) noexcept;
  /** Interrupts the run in progress for another cause; nothing where none is. */
  void interrupt(Cause cause) noexcept;

  /** The watchdog's look: deadlines and slices. `next` is lowered to when it has to look again. True if anything runs
   * or has run since the last look. */
  bool tick(std::int64_t now, std::int64_t& next) noexcept;

 private:
  // The bits of the state, above the causes.
  enum : std::uint32_t { kCauses = 0xff, kRunning = 0x100, kExpected = 0x200, kSticky = 0x400, kHeld = 0x800 };

  /** The gate while it is in scope. `state` is its state, and becomes it at the end. */
  struct Hold {
    explicit Hold(RunGate& gate)
        : gate(gate), lock(gate.mutex_), state(gate.state_.fetch_or(kHeld, std::memory_order_acq_rel)) {}
    ~Hold() { gate.state_.store(state, std::memory_order_release); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    std::uint32_t causes() const { return state & kCauses; }

    RunGate& gate;
    const std::lock_guard<std::mutex> lock;
    std::uint32_t state;
  };

  void set_immediate_exit(std::uint8_t value) noexcept {
    std::atomic_ref(run_->immediate_exit).store(value, std::memory_order_release);
  }
  void expect_held() noexcept;
  bool begin_held(Mode mode) noexcept;
  std::uint32_t end_held(bool interrupted) noexcept;
  void interrupt(Hold& held, std::uint32_t cause) noexcept;

  std::atomic<std::uint32_t> state_{0};
  std::atomic<pid_t> runner_{0};
  std::atomic<Mode> mode_{Mode::kPlain};
  kvm_run* const run_;
  std::atomic<std::int64_t> deadline_{kNever};
  std::atomic<std::uint64_t> sequence_{0};
  std::mutex mutex_;
  std::uint64_t last_seen_ = 0;
};

}  // namespace node_kvm
