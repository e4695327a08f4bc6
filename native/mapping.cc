// Host mappings: how they are made, and the class.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "async.h"
#include "objects.h"

namespace node_kvm {

namespace {

// The largest ArrayBuffer that every supported Node can make, rounded down to pages.
constexpr std::uint64_t kMaxBuffer = (std::uint64_t{1} << 32) - kPageSize;

constexpr int kAllowedAdvice[] = {
    MADV_NORMAL,     MADV_DONTNEED, MADV_FREE,    MADV_REMOVE,        MADV_HUGEPAGE,
    MADV_NOHUGEPAGE, MADV_COLD,     MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
};

void require_pages(std::uint64_t value, const char* name) {
  if (value % kPageSize == 0) return;
  throw ArgumentRangeError(std::string("Expected a multiple of 4096 for ") + name + " but received " +
                           std::to_string(value) + "n (type bigint)");
}

std::uint64_t length_at(const Napi::CallbackInfo& info, std::size_t at) {
  const std::uint64_t length = u64_at(info, at, "length");
  require_pages(length, "length");
  if (length == 0 || length > (std::uint64_t{1} << 47)) {
    throw ArgumentRangeError("Expected a length from 4096 to 2^47 for length but received " + std::to_string(length) +
                             "n (type bigint)");
  }
  return length;
}

Napi::Value new_mapping(napi_env env, MappedRegion region, MappingCore::Nature nature) {
  return new_handle<Mapping>(env, Kind::kMapping, new_core(std::make_shared<MappingCore>(std::move(region), nature)));
}

/** Whether no access inside the file can raise SIGBUS, whatever others do to it. */
bool is_stable_file(const MemoryFileCore& file, std::uint64_t end) {
  struct stat status = {};
  check(::fstat(file.fd(), &status), "fstat");
  if (end > static_cast<std::uint64_t>(status.st_size)) return false;
  if (file.kind() == Kind::kGuestMemfd) {
    return (static_cast<const GuestMemfdCore&>(file).flags & GUEST_MEMFD_FLAG_INIT_SHARED) != 0;
  }
  // Holes of a huge page file may not be filled again.
  struct statfs system = {};
  check(::fstatfs(file.fd(), &system), "fstatfs");
  if (system.f_type == HUGETLBFS_MAGIC) return false;
  const int seals = ::fcntl(file.fd(), F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

struct Range {
  std::uint64_t offset;
  std::uint64_t length;
};

Range page_range(const Mapping& self, const Napi::CallbackInfo& info) {
  const Range range = {u64_at(info, 0, "offset"), u64_at(info, 1, "length")};
  require_pages(range.offset, "offset");
  require_pages(range.length, "length");
  self.core().address(range.offset, range.length);
  return range;
}

int advice_at(const Napi::CallbackInfo& info, std::size_t at) {
  const int advice = s32_at(info, at, "advice");
  for (const int allowed : kAllowedAdvice) {
    if (advice == allowed) return advice;
  }
  throw_expected(info.Env(), "one of the allowed kinds of advice", "advice", info[at]);
}

Napi::Value get_length(Mapping& self, const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), self.core().length());
}

Napi::Value get_stable(Mapping& self, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), self.core().stable());
}

Napi::Value buffer(Mapping& self, const Napi::CallbackInfo& info) {
  const auto& core = self.open();
  const std::uint64_t offset = u64_at(info, 0, "offset");
  const auto length = static_cast<std::uint64_t>(integer_value(info.Env(), info[1], "length", 0, kMaxBuffer));
  std::uint8_t* const data = core->at(offset, length);
  return Napi::Value(info.Env(), self.buffers.create(info.Env(), data, length, core->lend(core.shared())));
}

Napi::Value read(Mapping& self, const Napi::CallbackInfo& info) {
  self.core().read(u64_at(info, 0, "offset"), bytes_at(info, 1, "into"));
  return info.Env().Undefined();
}

Napi::Value write(Mapping& self, const Napi::CallbackInfo& info) {
  self.core().write(u64_at(info, 0, "offset"), bytes_at(info, 1, "from"));
  return info.Env().Undefined();
}

Napi::Value fill(Mapping& self, const Napi::CallbackInfo& info) {
  const auto value = static_cast<std::uint8_t>(integer_value(info.Env(), info[2], "value", 0, 255));
  self.core().fill(u64_at(info, 0, "offset"), u64_at(info, 1, "length"), value);
  return info.Env().Undefined();
}

Napi::Value madvise_method(Mapping& self, const Napi::CallbackInfo& info) {
  const Range range = page_range(self, info);
  const int number = self.core().advise(range.offset, range.length, advice_at(info, 2));
  if (number != 0) throw SystemError(number, "madvise");
  return info.Env().Undefined();
}

Napi::Value madvise_async(Mapping& self, const Napi::CallbackInfo& info) {
  const Range range = page_range(self, info);
  const int advice = advice_at(info, 2);
  return call_on_pool(info.Env(), "madvise", [mapping = self.open(), range, advice] {
    return mapping->advise(range.offset, range.length, advice);
  });
}

Napi::Value resident(Mapping& self, const Napi::CallbackInfo& info) {
  const Range range = page_range(self, info);
  return Napi::BigInt::New(info.Env(), self.core().resident(range.offset, range.length));
}

}  // namespace

Napi::Value map_anonymous(const Napi::CallbackInfo& info) {
  const std::uint64_t length = length_at(info, 0);
  const Napi::Object options = object_at(info, 1, "options");
  const bool shared = options.Get("shared").ToBoolean();
  const auto hugetlb = static_cast<int>(integer_value(info.Env(), options.Get("hugetlb"), "hugetlb", 0, 63));
  const bool noreserve = options.Get("noreserve").ToBoolean();
  int flags = MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE) | (noreserve ? MAP_NORESERVE : 0);
  if (hugetlb != 0) {
    flags |= MAP_HUGETLB | hugetlb << MAP_HUGE_SHIFT;
    if (hugetlb > 46 || length % (std::uint64_t{1} << hugetlb) != 0) {
      throw ArgumentRangeError("Expected a multiple of the huge page size for length but received " +
                               std::to_string(length) + "n (type bigint)");
    }
  }
  MappedRegion region(length, PROT_READ | PROT_WRITE, flags, -1, 0);
  // Huge pages are all taken now: one that cannot be had later would be a SIGBUS.
  if (hugetlb != 0) check(::madvise(region.data(), length, MADV_POPULATE_WRITE), "madvise");
  return new_mapping(info.Env(), std::move(region), {.stable = true, .writable = true, .hugetlb = hugetlb != 0});
}

Napi::Value map_file(const Napi::CallbackInfo& info) {
  Handle& handle = handle_value(info.Env(), info[0], "file");
  if (handle.kind() != Kind::kHostFile && handle.kind() != Kind::kGuestMemfd) {
    throw_expected(info.Env(), "a file or a guest_memfd", "file", info[0]);
  }
  const MemoryFileCore& file = static_cast<MemoryFile&>(handle).core();
  const std::uint64_t offset = u64_at(info, 1, "offset");
  const std::uint64_t length = length_at(info, 2);
  const bool shared = boolean_at(info, 3, "shared");
  const bool writable = boolean_at(info, 4, "writable");
  require_pages(offset, "offset");
  if (offset > static_cast<std::uint64_t>(INT64_MAX) - length) {
    throw ArgumentRangeError("Expected offset and length to end below 2^63 but received " + std::to_string(offset) +
                             " and " + std::to_string(length));
  }
  MappedRegion region(length, PROT_READ | (writable ? PROT_WRITE : 0), shared ? MAP_SHARED : MAP_PRIVATE, file.fd(),
                      static_cast<off_t>(offset));
  // A read-only mapping has no ArrayBuffers: JavaScript cannot be kept from writing to one.
  const bool stable = writable && is_stable_file(file, offset + length);
  return new_mapping(info.Env(), std::move(region), {.stable = stable, .writable = writable, .hugetlb = false});
}

Napi::Value adopt_mapping(const Napi::CallbackInfo& info) {
  return new_handle<Mapping>(info.Env(), Kind::kMapping,
                             adopt_core<MappingCore>(u64_at(info, 0, "token"), Kind::kMapping));
}

void define_mapping(Environment& environment) {
  ClassDefinition<Mapping, Kind::kMapping>()
      .getter<get_length>("length")
      .getter<get_stable>("stable")
      .method<buffer>("buffer")
      .method<read>("read")
      .method<write>("write")
      .method<fill>("fill")
      .method<madvise_method>("madvise")
      .method<madvise_async>("madviseAsync")
      .method<resident>("resident")
      .define(environment);
}

}  // namespace node_kvm
