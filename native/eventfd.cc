// An eventfd that never blocks, and its wait on the event loop.
#include <sys/eventfd.h>
#include <uv.h>

#include "objects.h"

namespace node_kvm {

namespace {

// A uv_poll_t outlives its handle until libuv has closed it, and at the end of the environment the loop must not be
// left with it: the asynchronous cleanup hook makes Node wait.
struct Poll {
  uv_poll_t poll;
  napi_env env;
  napi_async_cleanup_hook_handle hook = nullptr;
  napi_ref callback = nullptr;
  // The handle, which must not be collected while somebody waits for it.
  napi_ref owner = nullptr;
  napi_async_context context = nullptr;
  bool closing = false;

  static Poll* open(napi_env env, int fd);
  void start(napi_env env, napi_value owner, napi_value callback);
  void stop(napi_env env) noexcept;
  void close() noexcept;

 private:
  static void on_ready(uv_poll_t* poll, int status, int events) noexcept;
};

class Eventfd : public CoreHandle<FileCore> {
 public:
  using CoreHandle::CoreHandle;
  ~Eventfd() override { end_poll(); }
  void close() override {
    end_poll();
    CoreHandle::close();
  }
  void tear_down() noexcept override {
    end_poll();
    CoreHandle::tear_down();
  }
  void end_poll() noexcept {
    if (poll == nullptr) return;
    poll->stop(env());
    poll->close();
    poll = nullptr;
  }

  Poll* poll = nullptr;
};

Poll* Poll::open(napi_env env, int fd) {
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw StateError("ERR_KVM_STATE", "There is no event loop");
  auto poll = std::make_unique<Poll>();
  poll->env = env;
  const int status = uv_poll_init(loop, &poll->poll, fd);
  if (status != 0) throw SystemError(-status, "epoll_ctl");
  Poll* const opened = poll.release();
  opened->poll.data = opened;
  const auto hook = [](napi_async_cleanup_hook_handle, void* data) { static_cast<Poll*>(data)->close(); };
  if (napi_add_async_cleanup_hook(env, hook, opened, &opened->hook) != napi_ok) {
    opened->close();
    throw StateError("ERR_KVM_STATE", "The environment is ending");
  }
  return opened;
}

void Poll::start(napi_env env, napi_value object, napi_value function) {
  napi_value name = Napi::String::New(env, "node-kvm eventfd");
  if (napi_async_init(env, nullptr, name, &context) != napi_ok ||
      napi_create_reference(env, object, 1, &owner) != napi_ok ||
      napi_create_reference(env, function, 1, &callback) != napi_ok) {
    stop(env);
    throw StateError("ERR_KVM_STATE", "The wait could not be started");
  }
  const int status = uv_poll_start(&poll, UV_READABLE, on_ready);
  if (status != 0) {
    stop(env);
    throw SystemError(-status, "epoll_ctl");
  }
}

void Poll::stop(napi_env env) noexcept {
  if (!closing) uv_poll_stop(&poll);
  if (callback != nullptr) napi_delete_reference(env, std::exchange(callback, nullptr));
  if (owner != nullptr) napi_delete_reference(env, std::exchange(owner, nullptr));
  if (context != nullptr) napi_async_destroy(env, std::exchange(context, nullptr));
}

void Poll::close() noexcept {
  if (closing) return;
  closing = true;
  uv_close(reinterpret_cast<uv_handle_t*>(&poll), [](uv_handle_t* closed) {
    const std::unique_ptr<Poll> self(static_cast<Poll*>(closed->data));
    if (self->hook != nullptr) napi_remove_async_cleanup_hook(self->hook);
  });
}

void Poll::on_ready(uv_poll_t* ready, int status, int) noexcept {
  auto& self = *static_cast<Poll*>(ready->data);
  napi_env env = self.env;
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value function = nullptr;
  napi_value receiver = nullptr;
  napi_value number = nullptr;
  napi_get_reference_value(env, self.callback, &function);
  napi_get_global(env, &receiver);
  napi_create_int32(env, status < 0 ? status : 0, &number);
  // The callback may poll again, cancel or close, so this one is over before it is called.
  napi_async_context context = std::exchange(self.context, nullptr);
  self.stop(env);
  bool thrown = false;
  if (function != nullptr && napi_make_callback(env, context, receiver, function, 1, &number, nullptr) != napi_ok &&
      napi_is_exception_pending(env, &thrown) == napi_ok && thrown) {
    napi_value error = nullptr;
    if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
  }
  if (context != nullptr) napi_async_destroy(env, context);
  napi_close_handle_scope(env, scope);
}

Napi::Value write_method(Eventfd& self, const Napi::CallbackInfo& info) {
  const std::uint64_t value = u64_at(info, 0, "value");
  const int fd = self.core().fd();
  while (::write(fd, &value, sizeof value) < 0) {
    if (errno == EAGAIN) return Napi::Boolean::New(info.Env(), false);
    if (errno != EINTR) throw SystemError(errno, "write");
  }
  return Napi::Boolean::New(info.Env(), true);
}

Napi::Value read_method(Eventfd& self, const Napi::CallbackInfo& info) {
  std::uint64_t value = 0;
  const int fd = self.core().fd();
  while (::read(fd, &value, sizeof value) < 0) {
    if (errno == EAGAIN) return info.Env().Undefined();
    if (errno != EINTR) throw SystemError(errno, "read");
  }
  return Napi::BigInt::New(info.Env(), value);
}

Napi::Value poll_method(Eventfd& self, const Napi::CallbackInfo& info) {
  const int fd = self.core().fd();
  if (!info[0].IsFunction()) throw_expected(info.Env(), "a function", "callback", info[0]);
  if (self.poll != nullptr && self.poll->callback != nullptr) {
    throw StateError("ERR_KVM_STATE", "This eventfd is being polled already");
  }
  if (self.poll == nullptr) self.poll = Poll::open(info.Env(), fd);
  self.poll->start(info.Env(), info.This(), info[0]);
  return info.Env().Undefined();
}

Napi::Value cancel_poll(Eventfd& self, const Napi::CallbackInfo& info) {
  if (self.poll != nullptr) self.poll->stop(info.Env());
  return info.Env().Undefined();
}

}  // namespace

Napi::Value create_eventfd(const Napi::CallbackInfo& info) {
  const std::uint32_t initial = u32_at(info, 0, "initial");
  const int flags = EFD_CLOEXEC | EFD_NONBLOCK | (boolean_at(info, 1, "semaphore") ? EFD_SEMAPHORE : 0);
  Fd fd(check(::eventfd(initial, flags), "eventfd"));
  return new_handle<Eventfd>(info.Env(), Kind::kEventfd,
                             new_core(std::make_shared<FileCore>(Kind::kEventfd, std::move(fd))));
}

Napi::Value adopt_eventfd(const Napi::CallbackInfo& info) {
  return new_handle<Eventfd>(info.Env(), Kind::kEventfd,
                             adopt_core<FileCore>(u64_at(info, 0, "token"), Kind::kEventfd));
}

void define_eventfd(Environment& environment) {
  ClassDefinition<Eventfd, Kind::kEventfd>()
      .getter<get_fd<Eventfd>>("fd")
      .method<write_method>("write")
      .method<read_method>("read")
      .method<poll_method>("poll")
      .method<cancel_poll>("cancelPoll")
      .define(environment);
}

}  // namespace node_kvm
