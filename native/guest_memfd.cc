// The class of KVM_CREATE_GUEST_MEMFD.
#include "memory_file.h"

namespace node_kvm {

namespace {

Napi::Value get_flags(MemoryFile& self, const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), static_cast<GuestMemfdCore&>(self.core()).flags);
}

}  // namespace

void define_guest_memfd(Environment& environment) {
  ClassDefinition<MemoryFile, Kind::kGuestMemfd>()
      .getter<get_fd<MemoryFile>>("fd")
      .getter<get_file_size>("size")
      .getter<get_flags>("flags")
      .method<fallocate_method>("fallocate")
      .method<fallocate_async>("fallocateAsync")
      .define(environment);
}

}  // namespace node_kvm
