// One thread for the process that looks in on synchronous runs: ends them at their deadline, and interrupts long ones
// now and then, so that a run in a worker that is being terminated notices. Sleeps while nothing runs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "gate.h"

namespace node_kvm {

class Watchdog {
 public:
  static Watchdog& instance();
  /** In nanoseconds, monotonic. */
  static std::int64_t now() noexcept;

  void add(RunGate* gate);
  void remove(RunGate* gate) noexcept;

  /** After RunGate::begin: sees to it that the gate is looked at by its deadline. */
  void watch(std::int64_t deadline) {
    // In one order with the start of the run, see `loop`.
    if (!awake_.load(std::memory_order_seq_cst) || deadline < RunGate::kNever) [[unlikely]]
      wake(deadline);
  }

 private:
  void wake(std::int64_t deadline);
  void loop() noexcept;
  bool look(std::int64_t& next) noexcept;

  std::mutex mutex_;
  std::condition_variable condition_;
  std::vector<RunGate*> gates_;
  std::atomic<bool> awake_{false};
  std::int64_t next_ = 0;
  bool started_ = false;
};

}  // namespace node_kvm
