#include "vcpu_thread.h"

#include <pthread.h>

#include <cerrno>
#include <chrono>

#include "census.h"
#include "error.h"
#include "kick_signal.h"
#include "vcpu_core.h"
#include "watchdog.h"

namespace node_kvm {

namespace {

// How long to look for the next command before going to sleep, in nanoseconds, where the last one came about as soon:
// waking a thread takes as long as many a program takes to answer an exit.
constexpr std::int64_t kSpin = 10'000;

}  // namespace

// What the event loop knows of a completion. It lives until the loop has let go of it.
struct Completion::Waker {
  uv_async_t async = {};
  std::shared_ptr<Completion> owner;
  napi_async_cleanup_hook_handle hook = nullptr;
};

std::shared_ptr<Completion> Completion::create(napi_env env, napi_value callback, Deliver deliver, void* handle) {
  auto completion = std::make_shared<Completion>();
  completion->env_ = env;
  completion->deliver_ = deliver;
  completion->handle_ = handle;
  auto waker = std::make_unique<Waker>();
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok ||
      napi_create_reference(env, callback, 1, &completion->callback_) != napi_ok ||
      uv_async_init(loop, &waker->async, woken) != 0) {
    throw StateError("ERR_KVM_STATE", "The way of results into the event loop could not be made");
  }
  uv_unref(reinterpret_cast<uv_handle_t*>(&waker->async));
  waker->async.data = waker.get();
  waker->owner = completion;
  completion->waker_ = waker.release();
  // The loop of a worker must be empty at its end.
  const auto end = [](napi_async_cleanup_hook_handle, void* data) { static_cast<Waker*>(data)->owner->let_go(); };
  if (napi_add_async_cleanup_hook(env, end, completion->waker_, &completion->waker_->hook) != napi_ok) {
    completion->let_go();
    throw StateError("ERR_KVM_STATE", "The way of results into the event loop could not be made");
  }
  return completion;
}

void Completion::expect() noexcept {
  pending_.store(true, std::memory_order_relaxed);
  undelivered_ = true;
  if (waker_ != nullptr) uv_ref(reinterpret_cast<uv_handle_t*>(&waker_->async));
}

void Completion::send(std::int64_t code) noexcept {
  {
    const std::lock_guard lock(mutex_);
    code_.store(code, std::memory_order_relaxed);
    sent_code_.store(true, std::memory_order_release);
    pending_.store(false, std::memory_order_release);
    // Under the mutex, which `let_go` takes. The environment's thread is awake from here on: what it does for each
    // result takes no mutex, or it would soon sleep again, waiting for this one. That is why this is no
    // napi_threadsafe_function, which wakes it with a mutex in hand.
    if (waker_ != nullptr) uv_async_send(&waker_->async);
  }
  sent_.notify_all();
}

bool Completion::wait(int milliseconds) noexcept {
  std::unique_lock lock(mutex_);
  return sent_.wait_for(lock, std::chrono::milliseconds(milliseconds), [this] { return !pending(); });
}

void Completion::finish() noexcept {
  finished_ = true;
  if (!undelivered_) let_go();
}

void Completion::woken(uv_async_t* async) noexcept {
  const auto self = static_cast<Waker*>(async->data)->owner;
  if (!self->sent_code_.exchange(false, std::memory_order_acq_rel)) return;
  uv_unref(reinterpret_cast<uv_handle_t*>(async));
  self->undelivered_ = false;
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(self->env_, &scope) != napi_ok) return;
  napi_value callback = nullptr;
  napi_get_reference_value(self->env_, self->callback_, &callback);
  if (self->finished_) self->let_go();
  self->deliver_(self->env_, callback, self->handle_, self->code_.load(std::memory_order_relaxed));
  napi_close_handle_scope(self->env_, scope);
}

void Completion::let_go() noexcept {
  Waker* waker = nullptr;
  {
    const std::lock_guard lock(mutex_);
    waker = std::exchange(waker_, nullptr);
  }
  if (waker == nullptr) return;
  if (callback_ != nullptr) napi_delete_reference(env_, std::exchange(callback_, nullptr));
  // Not the environment from here on, which may be gone when the loop is done with the handle.
  uv_close(reinterpret_cast<uv_handle_t*>(&waker->async), [](uv_handle_t* handle) {
    const std::unique_ptr<Waker> waker(static_cast<Waker*>(handle->data));
    if (waker->hook != nullptr) napi_remove_async_cleanup_hook(waker->hook);
  });
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

void VcpuThread::start_pre_fault(std::shared_ptr<Completion> to, std::shared_ptr<kvm_pre_fault_memory> range) {
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

std::uint32_t VcpuThread::next_command() noexcept {
  const std::int64_t start = Watchdog::now();
  if (prompt_) {
    do {
      if (const std::uint32_t command = command_.load(std::memory_order_acquire); command != kNone) return command;
      __builtin_ia32_pause();
    } while (Watchdog::now() - start < kSpin);
  }
  command_.wait(kNone, std::memory_order_acquire);
  static const bool alone = std::thread::hardware_concurrency() < 2;
  prompt_ = !alone && Watchdog::now() - start < kSpin * 2;
  return command_.load(std::memory_order_acquire);
}

void VcpuThread::loop() noexcept {
  ::pthread_setname_np(::pthread_self(), ("kvm-vcpu-" + std::to_string(core_.id())).substr(0, 15).c_str());
  for (;;) {
    const std::uint32_t command = next_command();
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
