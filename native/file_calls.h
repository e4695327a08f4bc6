// Methods that several classes have: each is defined once, on the core.
#pragma once

#include "handle.h"

namespace node_kvm {

/** `ioctl(request, argument)`, by the table in requests.cc. */
int table_ioctl(FileCore& core, const Napi::CallbackInfo& info);

void device_attr(FileCore& core, const Napi::CallbackInfo& info, bool set);
bool has_device_attr(FileCore& core, const Napi::CallbackInfo& info);

void memory_encrypt_op(FileCore& core, const Napi::CallbackInfo& info);

Napi::Value stats_fd(FileCore& core, const Napi::CallbackInfo& info);

template <typename T>
Napi::Value ioctl_method(T& self, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), table_ioctl(self.core(), info));
}
template <typename T>
Napi::Value get_device_attr(T& self, const Napi::CallbackInfo& info) {
  device_attr(self.core(), info, false);
  return info.Env().Undefined();
}
template <typename T>
Napi::Value set_device_attr(T& self, const Napi::CallbackInfo& info) {
  device_attr(self.core(), info, true);
  return info.Env().Undefined();
}
template <typename T>
Napi::Value has_device_attr_method(T& self, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), has_device_attr(self.core(), info));
}
template <typename T>
Napi::Value memory_encrypt_op_method(T& self, const Napi::CallbackInfo& info) {
  // Held, since getters of the argument objects may close the handle.
  const auto held = self.open();
  memory_encrypt_op(*held, info);
  return info.Env().Undefined();
}
template <typename T>
Napi::Value stats_fd_method(T& self, const Napi::CallbackInfo& info) {
  return stats_fd(self.core(), info);
}

}  // namespace node_kvm
