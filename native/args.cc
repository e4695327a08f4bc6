#include "args.h"

#include <cmath>

#include "error.h"

namespace node_kvm {

namespace {

std::string describe(napi_env env, napi_value value) {
  static constexpr const char* names[] = {"undefined", "null",   "boolean",  "number",   "string",
                                          "symbol",    "object", "function", "external", "bigint"};
  napi_valuetype type = napi_undefined;
  if (value != nullptr) napi_typeof(env, value, &type);
  std::string text = names[type];
  // Only of primitives: turning an object into a string would run its code.
  if (type == napi_number || type == napi_boolean || type == napi_bigint) {
    napi_value string = nullptr;
    if (napi_coerce_to_string(env, value, &string) == napi_ok) {
      text = Napi::String(env, string).Utf8Value() + (type == napi_bigint ? "n" : "");
    }
  }
  const char* shown = type == napi_null ? "object" : names[type];
  return text + " (type " + shown + ")";
}

std::string expected(napi_env env, const std::string& what, const char* name, napi_value value) {
  return "Expected " + what + " for " + name + " but received " + describe(env, value);
}

}  // namespace

void throw_expected(napi_env env, const std::string& what, const char* name, napi_value value) {
  throw ArgumentTypeError(expected(env, what, name, value));
}

std::uint64_t u64_value(napi_env env, napi_value value, const char* name) {
  std::uint64_t result = 0;
  bool lossless = false;
  if (napi_get_value_bigint_uint64(env, value, &result, &lossless) != napi_ok) {
    throw_expected(env, "a bigint", name, value);
  }
  if (!lossless) throw ArgumentRangeError(expected(env, "an unsigned 64-bit integer", name, value));
  return result;
}

std::int64_t integer_value(napi_env env, napi_value value, const char* name, std::int64_t min, std::int64_t max) {
  double number = 0;
  if (napi_get_value_double(env, value, &number) != napi_ok) throw_expected(env, "an integer", name, value);
  if (!(number >= static_cast<double>(min) && number <= static_cast<double>(max)) || number != std::trunc(number)) {
    throw ArgumentRangeError(
        expected(env, "an integer from " + std::to_string(min) + " to " + std::to_string(max), name, value));
  }
  return static_cast<std::int64_t>(number);
}

Bytes bytes_value(napi_env env, napi_value value, const char* name) {
  bool is_typed_array = false;
  napi_typedarray_type type = napi_int8_array;
  std::size_t length = 0;
  void* data = nullptr;
  if (napi_is_typedarray(env, value, &is_typed_array) != napi_ok || !is_typed_array ||
      napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != napi_uint8_array) {
    throw_expected(env, "a Uint8Array", name, value);
  }
  // A detached or empty array may come with any pointer.
  return length == 0 ? Bytes() : Bytes(static_cast<std::uint8_t*>(data), length);
}

bool is_nullish(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  return value == nullptr ||
         (napi_typeof(env, value, &type) == napi_ok && (type == napi_undefined || type == napi_null));
}

bool boolean_at(const Napi::CallbackInfo& info, std::size_t at, const char* name) {
  bool result = false;
  if (napi_get_value_bool(info.Env(), info[at], &result) != napi_ok) {
    throw_expected(info.Env(), "a boolean", name, info[at]);
  }
  return result;
}

std::string string_at(const Napi::CallbackInfo& info, std::size_t at, const char* name) {
  if (!info[at].IsString()) throw_expected(info.Env(), "a string", name, info[at]);
  std::string result = info[at].As<Napi::String>().Utf8Value();
  if (result.find('\0') != std::string::npos) throw_expected(info.Env(), "a string without NUL bytes", name, info[at]);
  return result;
}

Napi::Object object_at(const Napi::CallbackInfo& info, std::size_t at, const char* name) {
  if (!info[at].IsObject()) throw_expected(info.Env(), "an object", name, info[at]);
  return info[at].As<Napi::Object>();
}

void require_length(Bytes bytes, std::uint64_t needed, const char* name) {
  if (bytes.size() >= needed) return;
  throw ArgumentRangeError("Expected at least " + std::to_string(needed) + " bytes for " + name + " but received " +
                           std::to_string(bytes.size()) + " (type Uint8Array)");
}

}  // namespace node_kvm
