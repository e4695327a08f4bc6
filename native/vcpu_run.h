// The loop around KVM_RUN: part of vcpu_core.h, inlined into its callers.
#pragma once

#include "kick_signal.h"
#include "watchdog.h"

namespace node_kvm {

template <typename Ending>
RunResult VcpuCore::loop(bool ends_by_signal, Ending&& ending) {
  kvm_run* const state = run();
  std::uint32_t extra = 0;
  RunResult result;
  for (;;) {
    result = run_once(fd(), state);
    if (result != -EINTR) break;
    const std::uint32_t causes = gate_.look();
    if ((causes & ~RunGate::kSlice) != 0) break;
    if (causes != 0) {
      if (!ending()) continue;
      extra = RunGate::kClosing;
      break;
    }
    // None of ours: those have arrived by the time that their cause is taken back. Or immediate_exit is the caller's
    // own.
    if (!ends_by_signal && std::atomic_ref(state->immediate_exit).load(std::memory_order_relaxed) == 0) continue;
    extra = RunGate::kSignal;
    break;
  }
  const std::uint32_t causes = gate_.end(result == -EINTR);
  if (result == -EINTR) [[unlikely]] {
    interrupt_cause_.store((causes & ~RunGate::kSlice) | extra, std::memory_order_relaxed);
  }
  return result;
}

template <typename Ending>
RunResult VcpuCore::run_sync(std::int64_t deadline, Ending&& ending) {
  const auto& thread = KickableThread::current();
  // A slice is not told from a signal that comes in the same moment, which the main thread must not miss; and nobody
  // terminates the main thread.
  gate_.begin(thread.id, thread.main ? RunGate::Mode::kTimed : RunGate::Mode::kSliced, deadline);
  try {
    watch(deadline);
  } catch (...) {
    gate_.end(false);
    throw;
  }
  return loop(true, std::forward<Ending>(ending));
}

}  // namespace node_kvm
