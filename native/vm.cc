// A VM's ioctls that make other objects, and the class itself. Those about memory are in vm_memory.cc.
#include <fcntl.h>

#include "file_calls.h"
#include "objects.h"
#include "vm_methods.h"

namespace node_kvm {

namespace {

Napi::Value create_vcpu(Vm& self, const Napi::CallbackInfo& info) {
  const std::uint32_t id = u32_at(info, 0, "id");
  const auto& vm = self.open();
  const int xsave_size = ::ioctl(vm->fd(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  Fd fd(check(::ioctl(vm->fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(id)), "KVM_CREATE_VCPU"));
  return new_vcpu_handle(info.Env(),
                         new_core(std::make_shared<VcpuCore>(std::move(fd), id, vm.shared(),
                                                             static_cast<std::size_t>(std::max(xsave_size, 0)))));
}

Napi::Value create_guest_memfd(Vm& self, const Napi::CallbackInfo& info) {
  const auto& vm = self.open();
  kvm_create_guest_memfd wanted = {.size = u64_at(info, 0, "size"), .flags = u64_at(info, 1, "flags")};
  Fd fd(check(::ioctl(vm->fd(), KVM_CREATE_GUEST_MEMFD, &wanted), "KVM_CREATE_GUEST_MEMFD"));
  // The one descriptor that KVM makes without it. A program that another thread starts in this very moment inherits it:
  // there is no way to make it otherwise. It could read nothing by it but shared memory, and keeps it allocated.
  check(::fcntl(fd.get(), F_SETFD, FD_CLOEXEC), "fcntl");
  auto core = std::make_shared<GuestMemfdCore>(std::move(fd), vm.shared(), wanted.size, wanted.flags);
  return new_handle<MemoryFile>(info.Env(), Kind::kGuestMemfd,
                                new_core(std::shared_ptr<MemoryFileCore>(std::move(core))));
}

Napi::Value create_device(Vm& self, const Napi::CallbackInfo& info) {
  const auto& vm = self.open();
  ::kvm_create_device wanted = {.type = u32_at(info, 0, "type"), .fd = 0, .flags = u32_at(info, 1, "flags")};
  const bool test_only = (wanted.flags & KVM_CREATE_DEVICE_TEST) != 0;
  check(::ioctl(vm->fd(), KVM_CREATE_DEVICE, &wanted), "KVM_CREATE_DEVICE");
  // A test makes no device, so there is no descriptor to own: the handle is born closed.
  Fd fd(test_only ? -1 : static_cast<int>(wanted.fd));
  return new_handle<Device>(info.Env(), Kind::kDevice,
                            new_core(std::make_shared<DeviceCore>(std::move(fd), vm.shared())));
}

}  // namespace

Napi::Value stats_fd(FileCore& core, const Napi::CallbackInfo& info) {
  const Exclusive lock(core);
  Fd fd(check(::ioctl(core.fd(), KVM_GET_STATS_FD, 0), "KVM_GET_STATS_FD"));
  return new_handle<Readable>(info.Env(), Kind::kReadable,
                              new_core(std::make_shared<FileCore>(Kind::kReadable, std::move(fd))));
}

Napi::Value adopt_vm(const Napi::CallbackInfo& info) {
  return new_handle<Vm>(info.Env(), Kind::kVm, adopt_core<VmCore>(u64_at(info, 0, "token"), Kind::kVm));
}

void define_vm(Environment& environment) {
  ClassDefinition<Vm, Kind::kVm>()
      .getter<get_fd<Vm>>("fd")
      .method<ioctl_method<Vm>>("ioctl")
      .method<create_vcpu>("createVcpu")
      .method<create_guest_memfd>("createGuestMemfd")
      .method<create_device>("createDevice")
      .method<stats_fd_method<Vm>>("getStatsFd")
      .method<set_user_memory_region>("setUserMemoryRegion")
      .method<set_memory_attributes>("setMemoryAttributes")
      .method<set_memory_attributes_async>("setMemoryAttributesAsync")
      .method<get_dirty_log>("getDirtyLog")
      .method<clear_dirty_log>("clearDirtyLog")
      .method<set_msr_filter>("setMsrFilter")
      .method<memory_encrypt_region>("memoryEncryptRegion")
      .method<memory_encrypt_op_method<Vm>>("memoryEncryptOp")
      .define(environment);
}

}  // namespace node_kvm
