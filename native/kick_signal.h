// The signal that makes KVM_RUN return: one signal for the process, with a handler that does nothing.
#pragma once

#include <sys/types.h>

#include <csignal>

namespace node_kvm {

/** Chosen at the first use: SIGSTKFLT, or the highest real-time signal that nobody has taken. */
int kick_signal();

/** What a thread needs before it may be kicked. Cheap after the first call in a thread. */
struct KickableThread {
  pid_t id = 0;
  /** The first thread of the process, which gets the signals that are sent to the process. */
  bool main = false;
  static const KickableThread& current();
};

/** Only of a thread that is known to be alive. */
void send_kick(pid_t thread) noexcept;

/** Every signal but the kick blocked, for threads that the addon starts. Put back when it goes out of scope. */
class BlockedSignals {
 public:
  BlockedSignals();
  ~BlockedSignals();
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace node_kvm
