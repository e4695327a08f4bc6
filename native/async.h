// A system call on a thread of the pool, as a promise.
#pragma once

#include <napi.h>

#include <functional>
#include <string>

namespace node_kvm {

/**
 * `call` returns 0 or an errno and must hold, by what it captures, all that it uses. It runs without JavaScript.
 */
Napi::Value call_on_pool(napi_env env, std::string syscall, std::function<int()> call);

}  // namespace node_kvm
