// The native thread of a vCPU: made at the first command. It waits for the next one without using a CPU, but for a few
// microseconds where commands follow each other closely.
#pragma once

#include <napi.h>
#include <uv.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "uapi.h"

namespace node_kvm {

class VcpuCore;

/** The way of a command's result into one environment. Shared by the handle, the vCPU thread and the queue. */
class Completion {
 public:
  using Deliver = void (*)(napi_env env, napi_value callback, void* handle, std::int64_t code);

  /** In the environment's thread. `handle` is only used while a command is pending, which keeps it alive. */
  static std::shared_ptr<Completion> create(napi_env env, napi_value callback, Deliver deliver, void* handle);

  /** In the environment's thread: the loop stays alive until the result is delivered. */
  void expect() noexcept;
  /** In the vCPU's thread. */
  void send(std::int64_t code) noexcept;
  /** Waits for `send`; false where it has not come after so long. */
  bool wait(int milliseconds) noexcept;
  bool pending() const noexcept { return pending_.load(std::memory_order_acquire); }
  /** In the environment's thread: no command will follow. The queue ends once the last result is out. */
  void finish() noexcept;

 private:
  struct Waker;
  static void woken(uv_async_t* async) noexcept;
  void let_go() noexcept;

  // Between the two threads. `waker_` changes in the environment's thread, under the mutex.
  std::mutex mutex_;
  std::condition_variable sent_;
  Waker* waker_ = nullptr;
  std::atomic<std::int64_t> code_{0};
  std::atomic<bool> pending_{false};
  std::atomic<bool> sent_code_{false};
  // In the environment's thread only.
  napi_env env_ = nullptr;
  napi_ref callback_ = nullptr;
  Deliver deliver_ = nullptr;
  void* handle_ = nullptr;
  bool undelivered_ = false;
  bool finished_ = false;
};

class VcpuThread {
 public:
  explicit VcpuThread(VcpuCore& core) : core_(core) {}
  ~VcpuThread() { stop(); }

  // Both take over the core's lock, and give it back before the result is sent. A handle must wait for the result
  // before it lets go of the core.
  void start_run(std::shared_ptr<Completion> to);
  /** `range` is shared: a thread that does not end in time may write to it after the handle is gone. */
  void start_pre_fault(std::shared_ptr<Completion> to, std::shared_ptr<kvm_pre_fault_memory> range);
  /** Makes a command in progress return. */
  void interrupt() noexcept;
  /** Ends the thread; no command may be in progress. */
  void stop() noexcept;

 private:
  enum Command : std::uint32_t { kNone, kRun, kPreFault, kQuit };
  void start(Command command, std::shared_ptr<Completion> to);
  void loop() noexcept;
  std::uint32_t next_command() noexcept;

  VcpuCore& core_;
  std::thread thread_;
  std::atomic<std::uint32_t> command_{kNone};
  std::shared_ptr<Completion> to_;
  std::shared_ptr<kvm_pre_fault_memory> range_;
  // The last command came so soon that the next may well, too. Of the thread.
  bool prompt_ = false;
};

}  // namespace node_kvm
