#include "error.h"

#include <cstring>
#include <new>
#include <system_error>

namespace node_kvm {

namespace {

napi_value string_value(napi_env env, const std::string& text) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text.data(), text.size(), &value);
  return value;
}

napi_value error_value(napi_env env, const char* code, const std::string& message) {
  napi_value error = nullptr;
  napi_create_error(env, string_value(env, code), string_value(env, message), &error);
  return error;
}

}  // namespace

std::string errno_name(int number) {
  const char* name = strerrorname_np(number);
  return name != nullptr ? name : "E" + std::to_string(number);
}

SystemError::SystemError(int number, std::string syscall) : number_(number), syscall_(std::move(syscall)) {
  const char* text = strerrordesc_np(number);
  message_ = syscall_ + " failed: " + errno_name(number) + (text != nullptr ? " (" + std::string(text) + ")" : "");
}

void throw_closed(const char* what) { throw StateError("ERR_KVM_CLOSED", std::string(what) + " is closed"); }

napi_value system_error_value(napi_env env, int number, const std::string& syscall) {
  const SystemError failure(number, syscall);
  napi_value error = error_value(env, errno_name(number).c_str(), failure.what());
  napi_value negative = nullptr;
  napi_create_int32(env, -number, &negative);
  if (error != nullptr) {
    napi_set_named_property(env, error, "errno", negative);
    napi_set_named_property(env, error, "syscall", string_value(env, syscall));
  }
  return error;
}

void raise(napi_env env) noexcept {
  try {
    bool pending = false;
    if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return;
    try {
      throw;
    } catch (const SystemError& error) {
      napi_throw(env, system_error_value(env, error.number(), error.syscall()));
    } catch (const StateError& error) {
      napi_throw(env, error_value(env, error.code(), error.what()));
    } catch (const ArgumentRangeError& error) {
      napi_throw_range_error(env, nullptr, error.what());
    } catch (const ArgumentTypeError& error) {
      napi_throw_type_error(env, nullptr, error.what());
    } catch (const Napi::Error& error) {
      error.ThrowAsJavaScriptException();
    } catch (const std::bad_alloc&) {
      napi_throw(env, system_error_value(env, ENOMEM, "malloc"));
    } catch (const std::system_error& error) {
      napi_throw(env, system_error_value(env, error.code().value(), "pthread_create"));
    } catch (const std::exception& error) {
      napi_throw_error(env, nullptr, error.what());
    } catch (...) {
      napi_throw_error(env, nullptr, "Unknown native error");
    }
  } catch (...) {
    // No memory even for the message: JavaScript sees `undefined`, the process lives.
  }
}

}  // namespace node_kvm
