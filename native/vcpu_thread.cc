#include "vcpu_thread.h"

#include <pthread.h>

#include <cerrno>
#include <chrono>

#include "census.h"
#include "error.h"
#include "kick_signal.h"
#include "vcpu_core.h"

namespace node_kvm {

std::shared_ptr<Completion> Completion::create(napi_env env, napi_value callback, Deliver deliver, void* handle) {
  auto completion = std::make_shared<Completion>();
  completion->env_ = env;
  completion->deliver_ = deliver;
  completion->handle_ = handle;
  auto context = std::make_unique<std::shared_ptr<Completion>>(completion);
  napi_value name = Napi::String::New(env, "node-kvm vCPU");
  if (napi_create_threadsafe_function(env, callback, nullptr, name, 0, 1, context.get(), finalize, context.get(), call_js,
                                      &completion->queue_) != napi_ok) {
    throw StateError("ERR_KVM_STATE", "The queue of results could not be made");
  }
  context.release();
  napi_unref_threadsafe_function(env, completion->queue_);
  return completion;
}

void Completion::expect() noexcept {
  const std::lock_guard lock(mutex_);
  pending_ = true;
  undelivered_ = true;
  if (queue_ != nullptr) napi_ref_threadsafe_function(env_, queue_);
}

void Completion::unexpect() noexcept {
  const std::lock_guard lock(mutex_);
  pending_ = false;
  undelivered_ = false;
  if (queue_ != nullptr) napi_unref_threadsafe_function(env_, queue_);
}

void Completion::send(std::int64_t code) noexcept {
  {
    const std::lock_guard lock(mutex_);
    code_ = code;
    pending_ = false;
    // Under the mutex, which `finalize` takes before the queue is gone.
    if (queue_ != nullptr) napi_call_threadsafe_function(queue_, nullptr, napi_tsfn_nonblocking);
  }
  sent_.notify_all();
}

bool Completion::wait(int milliseconds) noexcept {
  std::unique_lock lock(mutex_);
  return sent_.wait_for(lock, std::chrono::milliseconds(milliseconds), [this] { return !pending_; });
}

bool Completion::pending() noexcept {
  const std::lock_guard lock(mutex_);
  return pending_;
}

void Completion::finish() noexcept {
  const std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  if (queue_ != nullptr && !undelivered_) napi_release_threadsafe_function(queue_, napi_tsfn_release);
}

void Completion::call_js(napi_env env, napi_value callback, void* context, void*) noexcept {
  if (env == nullptr) return;
  const auto self = *static_cast<std::shared_ptr<Completion>*>(context);
  std::int64_t code = 0;
  {
    const std::lock_guard lock(self->mutex_);
    code = self->code_;
    self->undelivered_ = false;
    napi_unref_threadsafe_function(env, self->queue_);
    if (self->finished_) napi_release_threadsafe_function(self->queue_, napi_tsfn_release);
  }
  self->deliver_(env, callback, self->handle_, code);
}

void Completion::finalize(napi_env, void*, void* context) noexcept {
  const std::unique_ptr<std::shared_ptr<Completion>> self(static_cast<std::shared_ptr<Completion>*>(context));
  const std::lock_guard lock((*self)->mutex_);
  (*self)->queue_ = nullptr;
}

void VcpuThread::start(Command command, std::shared_ptr<Completion> to) {
  if (!thread_.joinable()) {
    const BlockedSignals blocked;
    thread_ = std::thread([this] { loop(); });
    census.threads++;
  }
  to->expect();
  core_.gate().expect();
  to_ = std::move(to);
  command_.store(command, std::memory_order_release);
  command_.notify_one();
}

void VcpuThread::start_run(std::shared_ptr<Completion> to) { start(kRun, std::move(to)); }

void VcpuThread::start_pre_fault(std::shared_ptr<Completion> to,
                                 std::shared_ptr<kvm_pre_fault_memory> range) {
  range_ = std::move(range);
  start(kPreFault, std::move(to));
}

void VcpuThread::interrupt() noexcept { core_.gate().interrupt(RunGate::kClosing); }

void VcpuThread::stop() noexcept {
  if (!thread_.joinable()) return;
  command_.store(kQuit, std::memory_order_release);
  command_.notify_one();
  thread_.join();
  census.threads--;
}

void VcpuThread::loop() noexcept {
  ::pthread_setname_np(::pthread_self(), ("kvm-vcpu-" + std::to_string(core_.id())).substr(0, 15).c_str());
  for (;;) {
    command_.wait(kNone, std::memory_order_acquire);
    const std::uint32_t command = command_.load(std::memory_order_acquire);
    if (command == kQuit) return;
    std::int64_t code = 0;
    try {
      if (command == kRun) {
        code = core_.run_async();
      } else {
        // Through the gate as well, so that closing interrupts it.
        const bool over = core_.gate().begin(KickableThread::current().id, RunGate::Mode::kOther, RunGate::kNever);
        code = over ? -EINTR : ::ioctl(core_.fd(), KVM_PRE_FAULT_MEMORY, range_.get()) == 0 ? 0 : -errno;
        core_.gate().end(false);
      }
    } catch (...) {
      core_.gate().end(false);
      code = -ENOMEM;
    }
    const auto to = std::move(to_);
    command_.store(kNone, std::memory_order_relaxed);
    core_.unlock();
    to->send(code);
  }
}

}  // namespace node_kvm
