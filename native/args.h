// Arguments from JavaScript, checked. A wrong type throws a TypeError, a value that does not fit a RangeError.
#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace node_kvm {

using Bytes = std::span<std::uint8_t>;

std::uint64_t u64_value(napi_env env, napi_value value, const char* name);
std::int64_t integer_value(napi_env env, napi_value value, const char* name, std::int64_t min, std::int64_t max);
/**
 * The bytes of a Uint8Array. Valid until JavaScript runs again, so every getter of an argument object must have been
 * called before.
 */
Bytes bytes_value(napi_env env, napi_value value, const char* name);
bool is_nullish(napi_env env, napi_value value);

inline std::uint64_t u64_at(const Napi::CallbackInfo& info, std::size_t at, const char* name) {
  return u64_value(info.Env(), info[at], name);
}
inline std::uint32_t u32_at(const Napi::CallbackInfo& info, std::size_t at, const char* name) {
  return static_cast<std::uint32_t>(integer_value(info.Env(), info[at], name, 0, UINT32_MAX));
}
inline std::int32_t s32_at(const Napi::CallbackInfo& info, std::size_t at, const char* name) {
  return static_cast<std::int32_t>(integer_value(info.Env(), info[at], name, INT32_MIN, INT32_MAX));
}
inline Bytes bytes_at(const Napi::CallbackInfo& info, std::size_t at, const char* name) {
  return bytes_value(info.Env(), info[at], name);
}
bool boolean_at(const Napi::CallbackInfo& info, std::size_t at, const char* name);
/** Without NUL bytes, so that the kernel sees all of it. */
std::string string_at(const Napi::CallbackInfo& info, std::size_t at, const char* name);
Napi::Object object_at(const Napi::CallbackInfo& info, std::size_t at, const char* name);

/** Throws unless the buffer has that many bytes. */
void require_length(Bytes bytes, std::uint64_t needed, const char* name);

/** Throws a TypeError in the one sentence form. */
[[noreturn]] void throw_expected(napi_env env, const std::string& what, const char* name, napi_value value);

}  // namespace node_kvm
