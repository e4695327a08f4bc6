#include "watchdog.h"

#include <time.h>

#include <chrono>
#include <thread>

#include "kick_signal.h"

namespace node_kvm {

namespace {

constexpr std::int64_t kTick = 50'000'000;
// Looks without any run before it goes to sleep: waking it costs a system call.
constexpr int kIdleTicks = 20;

}  // namespace

Watchdog& Watchdog::instance() {
  // Never destroyed: its thread lives until the process is gone.
  static auto& it = *new Watchdog;
  return it;
}

std::int64_t Watchdog::now() noexcept {
  timespec time = {};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

void Watchdog::add(RunGate* gate) {
  const std::lock_guard lock(mutex_);
  gates_.push_back(gate);
}

void Watchdog::remove(RunGate* gate) noexcept {
  const std::lock_guard lock(mutex_);
  std::erase(gates_, gate);
}

void Watchdog::wake(std::int64_t deadline) {
  const std::lock_guard lock(mutex_);
  if (!started_) {
    const BlockedSignals blocked;
    std::thread([this] { loop(); }).detach();
    started_ = true;
  }
  if (awake_.load(std::memory_order_relaxed) && deadline >= next_) return;
  next_ = 0;
  awake_.store(true, std::memory_order_release);
  condition_.notify_one();
}

bool Watchdog::look(std::int64_t& next) noexcept {
  const std::int64_t time = now();
  next = time + kTick;
  bool busy = false;
  for (RunGate* gate : gates_) busy |= gate->tick(time, next);
  return busy;
}

void Watchdog::loop() noexcept {
  std::unique_lock lock(mutex_);
  for (int idle = 0;;) {
    idle = look(next_) ? 0 : idle + 1;
    if (idle < kIdleTicks) {
      const std::int64_t until = next_;
      condition_.wait_until(lock, std::chrono::steady_clock::time_point(std::chrono::nanoseconds(until)),
                            [&] { return next_ < until; });
      continue;
    }
    // A run that began before this store is seen by the look after it; a later one sees the store and wakes us.
    awake_.store(false, std::memory_order_seq_cst);
    if (!look(next_)) condition_.wait(lock, [this] { return awake_.load(std::memory_order_relaxed); });
    awake_.store(true, std::memory_order_release);
    idle = 0;
  }
}

}  // namespace node_kvm
