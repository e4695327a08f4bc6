// The methods of Vm that are not in vm.cc.
#pragma once

#include "objects.h"

namespace node_kvm {

Napi::Value set_user_memory_region(Vm& self, const Napi::CallbackInfo& info);
Napi::Value set_memory_attributes(Vm& self, const Napi::CallbackInfo& info);
Napi::Value set_memory_attributes_async(Vm& self, const Napi::CallbackInfo& info);
Napi::Value get_dirty_log(Vm& self, const Napi::CallbackInfo& info);
Napi::Value clear_dirty_log(Vm& self, const Napi::CallbackInfo& info);
Napi::Value set_msr_filter(Vm& self, const Napi::CallbackInfo& info);
Napi::Value memory_encrypt_region(Vm& self, const Napi::CallbackInfo& info);

}  // namespace node_kvm
