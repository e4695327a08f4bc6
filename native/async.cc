#include "async.h"

#include <memory>

#include "error.h"

namespace node_kvm {

namespace {

struct Call {
  std::string syscall;
  std::function<int()> body;
  int number = 0;
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
};

void execute(napi_env, void* data) noexcept {
  auto& call = *static_cast<Call*>(data);
  try {
    call.number = call.body();
  } catch (...) {
    call.number = ENOMEM;
  }
}

void complete(napi_env env, napi_status status, void* data) noexcept {
  const std::unique_ptr<Call> call(static_cast<Call*>(data));
  try {
    // What the call held is given back before JavaScript hears of it.
    call->body = nullptr;
    if (status == napi_cancelled) call->number = ECANCELED;
    napi_value value = nullptr;
    if (call->number == 0) {
      napi_get_undefined(env, &value);
      napi_resolve_deferred(env, call->deferred, value);
    } else {
      value = system_error_value(env, call->number, call->syscall);
      if (value != nullptr) napi_reject_deferred(env, call->deferred, value);
    }
  } catch (...) {
    // The environment is ending, or there is no memory for an error: nobody is left to be told.
  }
  napi_delete_async_work(env, call->work);
}

}  // namespace

Napi::Value call_on_pool(napi_env env, std::string syscall, std::function<int()> body) {
  auto call = std::make_unique<Call>(Call{.syscall = std::move(syscall), .body = std::move(body)});
  napi_value promise = nullptr;
  napi_value name = Napi::String::New(env, "node-kvm");
  if (napi_create_async_work(env, nullptr, name, execute, complete, call.get(), &call->work) != napi_ok) {
    throw StateError("ERR_KVM_STATE", "The call could not be queued");
  }
  if (napi_create_promise(env, &call->deferred, &promise) != napi_ok ||
      napi_queue_async_work(env, call->work) != napi_ok) {
    napi_delete_async_work(env, call->work);
    throw StateError("ERR_KVM_STATE", "The call could not be queued");
  }
  call.release();
  return Napi::Value(env, promise);
}

}  // namespace node_kvm
