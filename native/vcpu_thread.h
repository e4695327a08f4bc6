// The native thread of a vCPU: made at the first command, it waits for the next one without using a CPU.
#pragma once

#include <napi.h>

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
  void unexpect() noexcept;
  /** In the vCPU's thread. */
  void send(std::int64_t code) noexcept;
  /** Waits for `send`; false where it has not come after so long. */
  bool wait(int milliseconds) noexcept;
  bool pending() noexcept;
  /** In the environment's thread: no command will follow. The queue ends once the last result is out. */
  void finish() noexcept;

 private:
  static void call_js(napi_env env, napi_value callback, void* context, void* data) noexcept;
  static void finalize(napi_env env, void* data, void* context) noexcept;

  std::mutex mutex_;
  std::condition_variable sent_;
  napi_env env_ = nullptr;
  napi_threadsafe_function queue_ = nullptr;
  Deliver deliver_ = nullptr;
  void* handle_ = nullptr;
  std::int64_t code_ = 0;
  bool pending_ = false;
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

  VcpuCore& core_;
  std::thread thread_;
  std::atomic<std::uint32_t> command_{kNone};
  std::shared_ptr<Completion> to_;
  std::shared_ptr<kvm_pre_fault_memory> range_;
};

}  // namespace node_kvm
