// Memfds and files, and what they share with guest_memfds.
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "async.h"
#include "memory_file.h"

namespace node_kvm {

namespace {

off_t offset_at(const Napi::CallbackInfo& info, std::size_t at, const char* name) {
  const std::uint64_t value = u64_at(info, at, name);
  if (value > static_cast<std::uint64_t>(INT64_MAX)) {
    throw ArgumentRangeError(std::string("Expected at most 2^63 - 1 for ") + name + " but received " +
                             std::to_string(value) + "n (type bigint)");
  }
  return static_cast<off_t>(value);
}

Napi::Value new_host_file(napi_env env, Fd fd) {
  return new_handle<MemoryFile>(env, Kind::kHostFile,
                                new_core(std::make_shared<MemoryFileCore>(Kind::kHostFile, std::move(fd))));
}

Napi::Value ftruncate_method(MemoryFile& self, const Napi::CallbackInfo& info) {
  check(::ftruncate(self.core().fd(), offset_at(info, 0, "length")), "ftruncate");
  return info.Env().Undefined();
}

Napi::Value add_seals(MemoryFile& self, const Napi::CallbackInfo& info) {
  check(::fcntl(self.core().fd(), F_ADD_SEALS, u32_at(info, 0, "seals")), "fcntl");
  return info.Env().Undefined();
}

}  // namespace

Napi::Value get_file_size(MemoryFile& self, const Napi::CallbackInfo& info) {
  struct stat status = {};
  check(::fstat(self.core().fd(), &status), "fstat");
  return Napi::BigInt::New(info.Env(), static_cast<std::int64_t>(status.st_size));
}

Napi::Value fallocate_method(MemoryFile& self, const Napi::CallbackInfo& info) {
  const int mode = s32_at(info, 0, "mode");
  const off_t offset = offset_at(info, 1, "offset");
  const off_t length = offset_at(info, 2, "length");
  while (::fallocate(self.core().fd(), mode, offset, length) != 0) {
    if (errno != EINTR) throw SystemError(errno, "fallocate");
  }
  return info.Env().Undefined();
}

Napi::Value fallocate_async(MemoryFile& self, const Napi::CallbackInfo& info) {
  const int mode = s32_at(info, 0, "mode");
  const off_t offset = offset_at(info, 1, "offset");
  const off_t length = offset_at(info, 2, "length");
  return call_on_pool(info.Env(), "fallocate", [file = self.open(), mode, offset, length] {
    while (::fallocate(file->fd(), mode, offset, length) != 0) {
      if (errno != EINTR) return errno;
    }
    return 0;
  });
}

Napi::Value create_memfd(const Napi::CallbackInfo& info) {
  const std::string name = string_at(info, 0, "name");
  const auto hugetlb = static_cast<unsigned>(integer_value(info.Env(), info[1], "hugetlb", 0, 63));
  unsigned flags = MFD_CLOEXEC;
  if (hugetlb != 0) flags |= MFD_HUGETLB | hugetlb << MFD_HUGE_SHIFT;
  if (boolean_at(info, 2, "allowSealing")) flags |= MFD_ALLOW_SEALING;
  return new_host_file(info.Env(), Fd(check(::memfd_create(name.c_str(), flags), "memfd_create")));
}

Napi::Value open_file(const Napi::CallbackInfo& info) {
  const std::string path = string_at(info, 0, "path");
  const int flags = (boolean_at(info, 1, "writable") ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY;
  return new_host_file(info.Env(), Fd(check(::open(path.c_str(), flags), "open")));
}

void define_host_file(Environment& environment) {
  ClassDefinition<MemoryFile, Kind::kHostFile>()
      .getter<get_fd<MemoryFile>>("fd")
      .getter<get_file_size>("size")
      .method<fallocate_method>("fallocate")
      .method<fallocate_async>("fallocateAsync")
      .method<ftruncate_method>("ftruncate")
      .method<add_seals>("addSeals")
      .define(environment);
}

}  // namespace node_kvm
