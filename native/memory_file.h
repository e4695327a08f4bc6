// The methods that files and guest_memfds have in common.
#pragma once

#include "objects.h"

namespace node_kvm {

Napi::Value get_file_size(MemoryFile& self, const Napi::CallbackInfo& info);
Napi::Value fallocate_method(MemoryFile& self, const Napi::CallbackInfo& info);
Napi::Value fallocate_async(MemoryFile& self, const Napi::CallbackInfo& info);

}  // namespace node_kvm
