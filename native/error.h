// Failures as C++ exceptions, and their way into JavaScript. Nothing but `raise` knows both sides.
#pragma once

#include <napi.h>

#include <cerrno>
#include <exception>
#include <string>
#include <utility>

namespace node_kvm {

/** A failed system call: an Error with `code`, `errno` (negative) and `syscall`. */
class SystemError : public std::exception {
 public:
  SystemError(int number, std::string syscall);
  const char* what() const noexcept override { return message_.c_str(); }
  int number() const { return number_; }
  const std::string& syscall() const { return syscall_; }

 private:
  int number_;
  std::string syscall_;
  std::string message_;
};

/** The object is closed, or busy: an Error with a `code` only. */
class StateError : public std::exception {
 public:
  StateError(const char* code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  const char* code() const { return code_; }

 private:
  const char* code_;
  std::string message_;
};

class ArgumentTypeError : public std::exception {
 public:
  explicit ArgumentTypeError(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

class ArgumentRangeError : public ArgumentTypeError {
  using ArgumentTypeError::ArgumentTypeError;
};

[[noreturn]] void throw_closed(const char* what);

/** The result of a system call, or an exception with its errno. */
template <typename Result>
inline Result check(Result result, const char* syscall) {
  if (result == static_cast<Result>(-1)) throw SystemError(errno, syscall);
  return result;
}

/** 'EINVAL' */
std::string errno_name(int number);

/** A JavaScript error for a failed system call. */
napi_value system_error_value(napi_env env, int number, const std::string& syscall);

/** Throws the C++ exception being handled as a JavaScript one. */
void raise(napi_env env) noexcept;

/** The frame of each callback from JavaScript. */
template <typename Body>
napi_value guarded(napi_env env, Body&& body) noexcept {
  try {
    return body();
  } catch (...) {
    raise(env);
    return nullptr;
  }
}

}  // namespace node_kvm
