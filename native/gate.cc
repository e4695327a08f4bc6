#include "gate.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "kick_signal.h"

namespace node_kvm {

namespace {

// A deadline whose signal has not ended the run is signalled again after this many nanoseconds.
constexpr std::int64_t kRepeat = 10'000'000;

// A signal that is still on its way arrives at the end of any system call: of this one, and of none of the caller's.
void absorb_kick() noexcept { ::syscall(SYS_gettid); }

}  // namespace

void RunGate::expect_held() noexcept {
  Hold held(*this);
  held.state |= kExpected;
}

bool RunGate::begin_held(Mode mode) noexcept {
  Hold held(*this);
  held.state = (held.state & ~kExpected) | kRunning;
  if ((held.state & kSticky) != 0 && mode != Mode::kOther) held.state |= kKick;
  if (held.causes() == 0) return false;
  set_immediate_exit(1);
  return true;
}

std::uint32_t RunGate::look() noexcept {
  Hold held(*this);
  const std::uint32_t causes = held.causes();
  held.state &= ~kSlice;
  // Left alone where no cause of ours set it: then it is the caller's own.
  if (causes == kSlice) {
    set_immediate_exit(0);
    absorb_kick();
  }
  return causes;
}

std::uint32_t RunGate::end_held(bool interrupted) noexcept {
  Hold held(*this);
  const std::uint32_t causes = held.causes();
  // Again, since a kick may have come between.
  set_immediate_exit(0);
  if (causes != 0) absorb_kick();
  held.state &= ~(kRunning | kExpected | kCauses);
  // Nobody sees the end of a run whose handle is being closed; other handles may still run the vCPU.
  if (interrupted && (causes & (kKick | kClosing)) == kKick) held.state &= ~kSticky;
  return causes;
}

void RunGate::interrupt(Hold& held, std::uint32_t cause) noexcept {
  // Where it has not begun yet, `begin` sees the cause.
  if ((held.state & (kRunning | kExpected)) == 0) return;
  held.state |= cause;
  if ((held.state & kRunning) == 0) return;
  set_immediate_exit(1);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  send_kick(runner_.load(std::memory_order_relaxed));
}

void RunGate::kick(bool sticky) noexcept {
  Hold held(*this);
  interrupt(held, kKick);
  if (sticky) held.state |= kSticky;
}

void RunGate::interrupt(Cause cause) noexcept {
  Hold held(*this);
  interrupt(held, cause);
}

bool RunGate::tick(std::int64_t now, std::int64_t& next) noexcept {
  const std::uint64_t sequence = sequence_.load(std::memory_order_relaxed);
  const bool same = last_seen_ == sequence;
  last_seen_ = sequence;
  if ((state_.load(std::memory_order_seq_cst) & kRunning) == 0) return !same;
  Hold held(*this);
  const Mode mode = mode_.load(std::memory_order_relaxed);
  const std::int64_t deadline = deadline_.load(std::memory_order_relaxed);
  const bool timed = mode == Mode::kTimed && deadline != kNever;
  if ((held.state & kRunning) == 0 || (!timed && mode != Mode::kSliced)) return !same;
  if (deadline <= now) {
    interrupt(held, kTimeout);
    next = std::min(next, now + kRepeat);
  } else {
    next = std::min(next, deadline);
    // Another run may have begun since `sequence` was read; it has not been here for long.
    if (same && mode == Mode::kSliced && sequence_.load(std::memory_order_relaxed) == sequence) interrupt(held, kSlice);
  }
  return true;
}

}  // namespace node_kvm
