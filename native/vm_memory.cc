// A VM's ioctls about memory and those that take arrays of bits.
#include <algorithm>
#include <array>
#include <vector>

#include "async.h"
#include "vm_methods.h"

namespace node_kvm {

namespace {

kvm_memory_attributes attributes_of(const Napi::CallbackInfo& info) {
  return {
      .address = u64_at(info, 0, "address"),
      .size = u64_at(info, 1, "size"),
      .attributes = u64_at(info, 2, "attributes"),
      .flags = 0,
  };
}

}  // namespace

Napi::Value set_user_memory_region(Vm& self, const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  VmCore::Region region = {};
  region.version = static_cast<int>(integer_value(env, info[0], "version", 1, 2));
  region.slot = u32_at(info, 1, "slot");
  region.flags = u32_at(info, 2, "flags");
  region.gpa = u64_at(info, 3, "gpa");
  region.size = u64_at(info, 4, "size");
  if (!is_nullish(env, info[5])) {
    region.mapping = handle_at<Mapping>(info, 5, Kind::kMapping, "mapping").open().shared();
  }
  region.mapping_offset = u64_at(info, 6, "mappingOffset");
  region.guest_memfd = -1;
  if (!is_nullish(env, info[7])) {
    region.guest_memfd = handle_at<MemoryFile>(info, 7, Kind::kGuestMemfd, "guestMemfd").core().fd();
  }
  region.guest_memfd_offset = u64_at(info, 8, "guestMemfdOffset");
  const bool private_capable = (region.flags & KVM_MEM_GUEST_MEMFD) != 0;
  if (region.guest_memfd >= 0 && (region.version == 1 || (!private_capable && region.size != 0))) {
    throw ArgumentTypeError("Expected version 2 and the flag KVM_MEM_GUEST_MEMFD where a guest_memfd is given");
  }
  self.core().set_region(region);
  return env.Undefined();
}

Napi::Value set_memory_attributes(Vm& self, const Napi::CallbackInfo& info) {
  kvm_memory_attributes wanted = attributes_of(info);
  check(::ioctl(self.core().fd(), KVM_SET_MEMORY_ATTRIBUTES, &wanted), "KVM_SET_MEMORY_ATTRIBUTES");
  return info.Env().Undefined();
}

Napi::Value set_memory_attributes_async(Vm& self, const Napi::CallbackInfo& info) {
  return call_on_pool(info.Env(), "KVM_SET_MEMORY_ATTRIBUTES",
                      [vm = self.open(), wanted = attributes_of(info)]() mutable {
                        return ::ioctl(vm->fd(), KVM_SET_MEMORY_ATTRIBUTES, &wanted) == 0 ? 0 : errno;
                      });
}

Napi::Value get_dirty_log(Vm& self, const Napi::CallbackInfo& info) {
  self.core().dirty_log(u32_at(info, 0, "slot"), bytes_at(info, 1, "bitmap"));
  return info.Env().Undefined();
}

Napi::Value clear_dirty_log(Vm& self, const Napi::CallbackInfo& info) {
  VmCore& vm = self.core();
  kvm_clear_dirty_log log = {
      .slot = u32_at(info, 0, "slot"),
      .num_pages = u32_at(info, 2, "numPages"),
      .first_page = u64_at(info, 1, "firstPage"),
  };
  const Bytes bitmap = bytes_at(info, 3, "bitmap");
  require_length(bitmap, (std::uint64_t{log.num_pages} + 63) / 64 * 8, "bitmap");
  log.dirty_bitmap = bitmap.data();
  check(::ioctl(vm.fd(), KVM_CLEAR_DIRTY_LOG, &log), "KVM_CLEAR_DIRTY_LOG");
  return info.Env().Undefined();
}

Napi::Value set_msr_filter(Vm& self, const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  kvm_msr_filter filter = {.flags = u32_at(info, 0, "flags")};
  if (!info[1].IsArray()) throw_expected(env, "an array", "ranges", info[1]);
  const auto ranges = info[1].As<Napi::Array>();
  const std::uint32_t count = ranges.Length();
  if (count > KVM_MSR_FILTER_MAX_RANGES) throw ArgumentRangeError("Expected at most 16 ranges");
  std::array<std::vector<std::uint8_t>, KVM_MSR_FILTER_MAX_RANGES> bitmaps;
  for (std::uint32_t i = 0; i < count; i++) {
    const Napi::Value value = ranges.Get(i);
    if (!value.IsObject()) throw_expected(env, "an object", "ranges[]", value);
    const auto range = value.As<Napi::Object>();
    auto& to = filter.ranges[i];
    to.flags = static_cast<__u32>(integer_value(env, range.Get("flags"), "flags", 0, UINT32_MAX));
    to.base = static_cast<__u32>(integer_value(env, range.Get("base"), "base", 0, UINT32_MAX));
    to.nmsrs = static_cast<__u32>(
        integer_value(env, range.Get("count"), "count", 0, std::int64_t{KVM_MSR_FILTER_MAX_BITMAP_SIZE} * 8));
    const Napi::Value bitmap = range.Get("bitmap");
    // Copied before the next getter runs; in whole words of 64 bits, as the kernel reads it.
    const Bytes bytes = bytes_value(env, bitmap, "bitmap");
    bitmaps[i].resize((std::size_t{to.nmsrs} + 63) / 64 * 8);
    require_length(bytes, bitmaps[i].size(), "bitmap");
    std::copy_n(bytes.begin(), bitmaps[i].size(), bitmaps[i].begin());
    to.bitmap = bitmaps[i].data();
  }
  // The getters above may have closed the handle.
  check(::ioctl(self.core().fd(), KVM_X86_SET_MSR_FILTER, &filter), "KVM_X86_SET_MSR_FILTER");
  return env.Undefined();
}

Napi::Value memory_encrypt_region(Vm& self, const Napi::CallbackInfo& info) {
  const bool add = boolean_at(info, 0, "register");
  auto mapping = handle_at<Mapping>(info, 1, Kind::kMapping, "mapping").open().shared();
  self.core().encrypt_region(add, std::move(mapping), u64_at(info, 2, "offset"), u64_at(info, 3, "size"));
  return info.Env().Undefined();
}

}  // namespace node_kvm
