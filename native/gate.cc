#include "gate.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "kick_signal.h"

namespace node_kvm {

namespace {

// A deadline whose signal has not ended the run is signalled again after this many nanoseconds.
constexpr std::int64_t kRepeat = 10'000'000;

void set_immediate_exit(kvm_run* run, std::uint8_t value) noexcept {
  std::atomic_ref(run->immediate_exit).store(value, std::memory_order_release);
}

// A signal that is still on its way arrives at the end of any system call: of this one, and of none of the caller's.
void absorb_kick() noexcept { ::syscall(SYS_gettid); }

}  // namespace

void RunGate::expect() noexcept {
  const std::lock_guard lock(mutex_);
  expected_ = true;
}

bool RunGate::begin(pid_t thread, Mode mode, std::int64_t deadline) noexcept {
  const std::lock_guard lock(mutex_);
  runner_ = thread;
  expected_ = false;
  mode_ = mode;
  deadline_ = deadline;
  sequence_++;
  if (sticky_ && mode != Mode::kOther) causes_ |= kKick;
  if (causes_ == 0) [[likely]] return false;
  set_immediate_exit(run_, 1);
  return true;
}

std::uint32_t RunGate::look() noexcept {
  const std::lock_guard lock(mutex_);
  const std::uint32_t causes = causes_;
  causes_ &= ~kSlice;
  // Left alone where no cause of ours set it: then it is the caller's own.
  if (causes == kSlice) {
    set_immediate_exit(run_, 0);
    absorb_kick();
  }
  return causes;
}

std::uint32_t RunGate::end(bool interrupted) noexcept {
  const std::lock_guard lock(mutex_);
  runner_ = 0;
  expected_ = false;
  deadline_ = kNever;
  set_immediate_exit(run_, 0);
  const std::uint32_t causes = causes_;
  if (causes != 0) [[unlikely]] absorb_kick();
  causes_ = 0;
  // Nobody sees the end of a run whose handle is being closed; other handles may still run the vCPU.
  if (interrupted && (causes & (kKick | kClosing)) == kKick) sticky_ = false;
  return causes;
}

void RunGate::interrupt_locked(std::uint32_t cause) noexcept {
  causes_ |= cause;
  // Not begun yet: `begin` sees the cause.
  if (runner_ == 0) return;
  set_immediate_exit(run_, 1);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  send_kick(runner_);
}

void RunGate::kick(bool sticky) noexcept {
  const std::lock_guard lock(mutex_);
  if (runner_ != 0 || expected_) interrupt_locked(kKick);
  if (sticky) sticky_ = true;
}

void RunGate::interrupt(Cause cause) noexcept {
  const std::lock_guard lock(mutex_);
  if (runner_ != 0 || expected_) interrupt_locked(cause);
}

bool RunGate::tick(std::int64_t now, std::int64_t& next) noexcept {
  const std::lock_guard lock(mutex_);
  const bool same = last_seen_ == sequence_;
  last_seen_ = sequence_;
  const bool timed = mode_ == Mode::kTimed && deadline_ != kNever;
  if (runner_ == 0 || (!timed && mode_ != Mode::kSliced)) return !same;
  if (deadline_ <= now) {
    interrupt_locked(kTimeout);
    next = std::min(next, now + kRepeat);
  } else {
    next = std::min(next, deadline_);
    if (same && mode_ == Mode::kSliced) interrupt_locked(kSlice);
  }
  return true;
}

}  // namespace node_kvm
