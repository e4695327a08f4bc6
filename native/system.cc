// /dev/kvm.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "file_calls.h"
#include "objects.h"

namespace node_kvm {

namespace {

// The misc device that KVM has on every Linux. Anything else must not be sent KVM's ioctls: they may mean something
// there.
constexpr unsigned kMiscMajor = 10;
constexpr unsigned kKvmMinor = 232;

Napi::Value system_of(napi_env env, Fd fd) {
  struct stat status = {};
  check(::fstat(fd.get(), &status), "fstat");
  if (!S_ISCHR(status.st_mode) || status.st_rdev != makedev(kMiscMajor, kKvmMinor)) {
    throw SystemError(ENOTTY, "KVM_GET_API_VERSION");
  }
  return new_handle<System>(env, Kind::kSystem, new_core(std::make_shared<FileCore>(Kind::kSystem, std::move(fd))));
}

Napi::Value create_vm(System& self, const Napi::CallbackInfo& info) {
  const std::uint64_t type = u64_at(info, 0, "type");
  const int system = self.core().fd();
  const int run_size = check(::ioctl(system, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  Fd fd(check(::ioctl(system, KVM_CREATE_VM, type), "KVM_CREATE_VM"));
  auto core = std::make_shared<VmCore>(std::move(fd), static_cast<std::size_t>(run_size));
  return new_handle<Vm>(info.Env(), Kind::kVm, new_core(std::move(core)));
}

}  // namespace

Napi::Value open_system(const Napi::CallbackInfo& info) {
  const std::string path = string_at(info, 0, "path");
  return system_of(info.Env(), Fd(check(::open(path.c_str(), O_RDWR | O_CLOEXEC), "open")));
}

Napi::Value system_from_fd(const Napi::CallbackInfo& info) {
  return system_of(info.Env(), Fd(check(::fcntl(s32_at(info, 0, "fd"), F_DUPFD_CLOEXEC, 0), "fcntl")));
}

void define_system(Environment& environment) {
  ClassDefinition<System, Kind::kSystem>()
      .getter<get_fd<System>>("fd")
      .method<ioctl_method<System>>("ioctl")
      .method<get_device_attr<System>>("getDeviceAttr")
      .method<set_device_attr<System>>("setDeviceAttr")
      .method<has_device_attr_method<System>>("hasDeviceAttr")
      .method<create_vm>("createVm")
      .define(environment);
}

}  // namespace node_kvm
