#include "kick_signal.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "error.h"

namespace node_kvm {

namespace {

// In the static block, where access costs no call: every run looks here.
thread_local KickableThread this_thread __attribute__((tls_model("initial-exec")));

void on_kick(int) {}

bool install(int number) noexcept {
  struct sigaction ours = {};
  ours.sa_handler = on_kick;
  sigemptyset(&ours.sa_mask);
  // Without SA_RESTART: to make the call return is the whole point. On the alternate stack where a thread has one.
  ours.sa_flags = SA_ONSTACK;
  return ::sigaction(number, &ours, nullptr) == 0;
}

bool claim(int number) {
  struct sigaction current = {};
  if (::sigaction(number, nullptr, &current) != 0 || (current.sa_flags & SA_SIGINFO) != 0 ||
      current.sa_handler != SIG_DFL) {
    return false;
  }
  return install(number);
}

int claim_signal() {
  // On x86 nobody sends it. As one of the old signals it needs no room in the user's queue of signals, so that it comes
  // through where that is full (RLIMIT_SIGPENDING); a real-time signal would be refused, and the guest run on.
  if (claim(SIGSTKFLT)) return SIGSTKFLT;
  for (int number = SIGRTMAX; number >= SIGRTMIN; number--) {
    if (claim(number)) return number;
  }
  throw SystemError(EBUSY, "sigaction");
}

}  // namespace

int kick_signal() {
  static const int number = claim_signal();
  return number;
}

const KickableThread& KickableThread::current() {
  KickableThread& thread = this_thread;
  if (thread.id == 0) [[unlikely]] {
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, kick_signal());
    const int failure = ::pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);
    if (failure != 0) throw SystemError(failure, "pthread_sigmask");
    thread.id = static_cast<pid_t>(::syscall(SYS_gettid));
    thread.main = thread.id == ::getpid();
  }
  return thread;
}

void send_kick(pid_t thread) noexcept {
  // A program that listened for the signal and stopped has set it back to ending the process.
  struct sigaction current = {};
  ::sigaction(kick_signal(), nullptr, &current);
  if ((current.sa_flags & SA_SIGINFO) == 0 && (current.sa_handler == SIG_DFL || current.sa_handler == SIG_IGN)) {
    install(kick_signal());
  }
  ::syscall(SYS_tgkill, ::getpid(), thread, kick_signal());
}

BlockedSignals::BlockedSignals() {
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, kick_signal());
  ::pthread_sigmask(SIG_SETMASK, &all, &before_);
}

BlockedSignals::~BlockedSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

}  // namespace node_kvm
