// The loop around KVM_RUN: part of vcpu_core.h, inlined into its callers.
#pragma once

#include "kick_signal.h"
#include "watchdog.h"

namespace node_kvm {

template <typename Ending>
RunResult VcpuCore::loop(volatile std::uint32_t& received, Ending&& ending) {
  kvm_run* const state = run();
  std::uint32_t extra = 0;
  RunResult result;
  for (;;) {
    const std::uint32_t before = received;
    result = run_once(fd(), state);
    if (result != -EINTR) break;
    const std::uint32_t causes = gate_.look();
    if ((causes & ~RunGate::kSlice) != 0) break;
    if (causes != 0) {
      if (!ending()) continue;
      extra = RunGate::kClosing;
      break;
    }
    // A kick that was sent to an earlier run may arrive late, during this one: nobody wants to know.
    if (received != before && state->immediate_exit == 0) continue;
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
  auto& thread = KickableThread::current();
  gate_.begin(thread.id, RunGate::Mode::kSliced, deadline);
  try {
    watch(deadline);
  } catch (...) {
    gate_.end(false);
    throw;
  }
  return loop(thread.received, std::forward<Ending>(ending));
}

}  // namespace node_kvm
