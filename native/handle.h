// The JavaScript objects: one class per kind of core, made by the addon only, with one wrapped `Handle` each.
#pragma once

#include <napi.h>

#include <memory>
#include <set>
#include <vector>

#include "args.h"
#include "core.h"

namespace node_kvm {

class Handle;

/** The vCPUs of one environment by small numbers, which JavaScript names them by where a call must be cheap. */
class Runnable {
 public:
  std::uint32_t add(Handle* vcpu) {
    if (free_.empty()) {
      slots_.push_back(vcpu);
      return static_cast<std::uint32_t>(slots_.size() - 1);
    }
    const std::uint32_t slot = free_.back();
    free_.pop_back();
    slots_[slot] = vcpu;
    return slot;
  }
  /** Once nobody can have the number any more. */
  void remove(std::uint32_t slot) noexcept {
    slots_[slot] = nullptr;
    try {
      free_.push_back(slot);
    } catch (...) {
      // Without memory, it is not used again.
    }
  }
  Handle* at(std::uint32_t slot) const noexcept { return slot < slots_.size() ? slots_[slot] : nullptr; }

 private:
  std::vector<Handle*> slots_;
  std::vector<std::uint32_t> free_;
};

/** What the addon keeps per environment. Handles share it, since finalizers come in any order. */
struct Environment {
  explicit Environment(napi_env env) : env(env) {}
  static std::shared_ptr<Environment> of(napi_env env);
  /** The cleanup hook: ends runs, joins threads, closes descriptors. */
  void tear_down() noexcept;

  const napi_env env;
  Napi::FunctionReference constructors[static_cast<std::size_t>(Kind::kCount)];
  std::set<Handle*> handles;
  Runnable runnable;
  /** What the constructor now being called is to wrap; JavaScript's own `new` finds it empty. */
  std::unique_ptr<Handle> pending;
  bool ending = false;
};

class Handle {
 public:
  Handle(napi_env env, Kind kind);
  virtual ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  Kind kind() const { return kind_; }
  napi_env env() const { return environment_->env; }
  const std::shared_ptr<Environment>& environment() const { return environment_; }

  /** Idempotent. May throw, with nothing given back. */
  virtual void close() = 0;
  /** At the end of the environment: gives back everything without touching JavaScript. */
  virtual void tear_down() noexcept = 0;
  virtual bool closed() const = 0;
  virtual std::shared_ptr<Core> shared_core() const = 0;

 private:
  const std::shared_ptr<Environment> environment_;
  const Kind kind_;
};

template <typename T>
class CoreHandle : public Handle {
 public:
  CoreHandle(napi_env env, Kind kind, OpenRef<T> core) : Handle(env, kind), core_(std::move(core)) {}

  /** Throws ERR_KVM_CLOSED. */
  T& core() const {
    if (!core_) throw_closed(kind_name(kind()));
    return *core_;
  }
  const OpenRef<T>& open() const {
    if (!core_) throw_closed(kind_name(kind()));
    return core_;
  }
  void close() override { core_.reset(); }
  void tear_down() noexcept override { core_.reset(); }
  bool closed() const override { return !core_; }
  std::shared_ptr<Core> shared_core() const override { return open().shared(); }

 private:
  OpenRef<T> core_;
};

/** Wraps a handle in a new object of its class. */
Napi::Value wrap(napi_env env, std::unique_ptr<Handle> handle);

/** The handle of an object given as an argument; anything else is a TypeError. */
Handle& handle_value(napi_env env, napi_value value, const char* name);
template <typename T>
T& handle_at(const Napi::CallbackInfo& info, std::size_t at, Kind kind, const char* name) {
  Handle& handle = handle_value(info.Env(), info[at], name);
  if (handle.kind() != kind) throw_expected(info.Env(), std::string("a ") + kind_name(kind), name, info[at]);
  return static_cast<T&>(handle);
}

// Callbacks. V8 checks the receiver of methods against the class's signature, but not that of accessors.
template <typename T, Napi::Value (*Body)(T&, const Napi::CallbackInfo&)>
napi_value method_callback(napi_env env, napi_callback_info raw) noexcept {
  return guarded(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw);
    void* handle = nullptr;
    if (napi_unwrap(env, info.This(), &handle) != napi_ok) throw_expected(env, "a handle", "this", info.This());
    return Body(*static_cast<T*>(static_cast<Handle*>(handle)), info);
  });
}

template <typename T, Kind kind, Napi::Value (*Body)(T&, const Napi::CallbackInfo&)>
napi_value getter_callback(napi_env env, napi_callback_info raw) noexcept {
  return guarded(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw);
    Handle& handle = handle_value(env, info.This(), "this");
    if (handle.kind() != kind) throw_expected(env, std::string("a ") + kind_name(kind), "this", info.This());
    return Body(static_cast<T&>(handle), info);
  });
}

template <Napi::Value (*Body)(const Napi::CallbackInfo&)>
napi_value function_callback(napi_env env, napi_callback_info raw) noexcept {
  return guarded(env, [&]() -> napi_value { return Body(Napi::CallbackInfo(env, raw)); });
}

/** The members of one class. */
template <typename T, Kind kind>
class ClassDefinition {
 public:
  template <Napi::Value (*Body)(T&, const Napi::CallbackInfo&)>
  ClassDefinition& method(const char* name) {
    members_.push_back(
        {name, nullptr, method_callback<T, Body>, nullptr, nullptr, nullptr, napi_default_method, nullptr});
    return *this;
  }
  template <Napi::Value (*Body)(T&, const Napi::CallbackInfo&)>
  ClassDefinition& getter(const char* name) {
    members_.push_back(
        {name, nullptr, nullptr, getter_callback<T, kind, Body>, nullptr, nullptr, napi_enumerable, nullptr});
    return *this;
  }
  void define(Environment& environment);

 private:
  std::vector<napi_property_descriptor> members_;
};

void define_class(Environment& environment, Kind kind, const std::vector<napi_property_descriptor>& members);

// The members that every class has.
template <typename T>
Napi::Value get_closed(T& self, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), self.closed());
}
template <typename T>
Napi::Value close_method(T& self, const Napi::CallbackInfo& info) {
  self.close();
  return info.Env().Undefined();
}
template <typename T>
Napi::Value token_method(T& self, const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), token_of(self.shared_core()));
}

template <typename T, Kind kind>
void ClassDefinition<T, kind>::define(Environment& environment) {
  this->template getter<get_closed<T>>("closed");
  this->template method<close_method<T>>("close");
  this->template method<token_method<T>>("token");
  define_class(environment, kind, members_);
}

/** `fd`, for classes whose core is a FileCore. */
template <typename T>
Napi::Value get_fd(T& self, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), self.closed() ? -1 : self.core().fd());
}

// One per class, each in the file of its kernel object.
void define_system(Environment& environment);
void define_vm(Environment& environment);
void define_vcpu(Environment& environment);
void define_guest_memfd(Environment& environment);
void define_host_file(Environment& environment);
void define_device(Environment& environment);
void define_readable(Environment& environment);
void define_eventfd(Environment& environment);
void define_mapping(Environment& environment);

}  // namespace node_kvm
