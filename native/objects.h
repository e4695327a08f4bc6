// The handles of the simpler classes, and how each is made.
#pragma once

#include "handle.h"
#include "mapping_core.h"
#include "tracked_buffers.h"
#include "vcpu_core.h"
#include "vm_core.h"

namespace node_kvm {

/** A memfd or a file. */
class MemoryFileCore : public FileCore {
 public:
  using FileCore::FileCore;
};

class GuestMemfdCore : public MemoryFileCore {
 public:
  GuestMemfdCore(Fd fd, std::shared_ptr<VmCore> vm, std::uint64_t size, std::uint64_t flags)
      : MemoryFileCore(Kind::kGuestMemfd, std::move(fd)), vm(std::move(vm)), size(size), flags(flags) {}
  const std::shared_ptr<VmCore> vm;
  const std::uint64_t size;
  const std::uint64_t flags;
};

class DeviceCore : public FileCore {
 public:
  DeviceCore(Fd fd, std::shared_ptr<VmCore> vm) : FileCore(Kind::kDevice, std::move(fd)), vm(std::move(vm)) {}
  const std::shared_ptr<VmCore> vm;
};

using System = CoreHandle<FileCore>;
using Vm = CoreHandle<VmCore>;
using MemoryFile = CoreHandle<MemoryFileCore>;
using Device = CoreHandle<DeviceCore>;
using Readable = CoreHandle<FileCore>;

/** A host mapping, and the ArrayBuffers that this environment has of it. */
class Mapping : public CoreHandle<MappingCore> {
 public:
  using CoreHandle::CoreHandle;
  void close() override {
    if (!closed() && buffers.lent()) core().keep_huge_pages();
    buffers.detach(env());
    CoreHandle::close();
  }
  TrackedBuffers buffers;
};

/** Makes a handle for a new core or one more for a known one. */
template <typename HandleType, typename T>
Napi::Value new_handle(napi_env env, Kind kind, OpenRef<T> core) {
  return wrap(env, std::make_unique<HandleType>(env, kind, std::move(core)));
}
template <typename T>
OpenRef<T> new_core(std::shared_ptr<T> core) {
  return OpenRef<T>::adopt_new(std::move(core));
}

Napi::Value new_vcpu_handle(napi_env env, OpenRef<VcpuCore> core);
/** `runVcpu` of the addon. */
napi_value run_vcpu_function(Environment& environment);

// The addon's own functions, each in the file of its class.
Napi::Value open_system(const Napi::CallbackInfo& info);
Napi::Value system_from_fd(const Napi::CallbackInfo& info);
Napi::Value create_eventfd(const Napi::CallbackInfo& info);
Napi::Value create_memfd(const Napi::CallbackInfo& info);
Napi::Value open_file(const Napi::CallbackInfo& info);
Napi::Value map_anonymous(const Napi::CallbackInfo& info);
Napi::Value map_file(const Napi::CallbackInfo& info);
Napi::Value adopt_vm(const Napi::CallbackInfo& info);
Napi::Value adopt_vcpu(const Napi::CallbackInfo& info);
Napi::Value adopt_mapping(const Napi::CallbackInfo& info);
Napi::Value adopt_eventfd(const Napi::CallbackInfo& info);
Napi::Value make_layout(napi_env env);

}  // namespace node_kvm
