// Device attributes, and the class of KVM_CREATE_DEVICE.
#include "bounce.h"
#include "file_calls.h"
#include "objects.h"

namespace node_kvm {

namespace {

// Attributes are a few words; the longest known ones are tables of some hundred bytes.
constexpr std::size_t kMaxData = 64 * 1024;

}  // namespace

void device_attr(FileCore& core, const Napi::CallbackInfo& info, bool set) {
  kvm_device_attr attr = {.flags = 0, .group = u32_at(info, 0, "group"), .attr = u64_at(info, 1, "attr"), .addr = 0};
  const Exclusive lock(core);
  if (set && is_nullish(info.Env(), info[2])) {
    check(::ioctl(core.fd(), KVM_SET_DEVICE_ATTR, &attr), "KVM_SET_DEVICE_ATTR");
    return;
  }
  const Bytes data = bytes_at(info, 2, "data");
  if (data.size() > kMaxData) {
    throw ArgumentRangeError("Expected at most 65536 bytes for data but received " + std::to_string(data.size()) +
                             " (type Uint8Array)");
  }
  const GuardedBuffer copy(data);
  attr.addr = copy.address();
  if (set) {
    check(::ioctl(core.fd(), KVM_SET_DEVICE_ATTR, &attr), "KVM_SET_DEVICE_ATTR");
    return;
  }
  check(::ioctl(core.fd(), KVM_GET_DEVICE_ATTR, &attr), "KVM_GET_DEVICE_ATTR");
  copy.copy_to(data);
}

bool has_device_attr(FileCore& core, const Napi::CallbackInfo& info) {
  kvm_device_attr attr = {.flags = 0, .group = u32_at(info, 0, "group"), .attr = u64_at(info, 1, "attr"), .addr = 0};
  const Exclusive lock(core);
  if (::ioctl(core.fd(), KVM_HAS_DEVICE_ATTR, &attr) == 0) return true;
  if (errno == ENXIO) return false;
  throw SystemError(errno, "KVM_HAS_DEVICE_ATTR");
}

void define_device(Environment& environment) {
  ClassDefinition<Device, Kind::kDevice>()
      .getter<get_fd<Device>>("fd")
      .method<ioctl_method<Device>>("ioctl")
      .method<get_device_attr<Device>>("getDeviceAttr")
      .method<set_device_attr<Device>>("setDeviceAttr")
      .method<has_device_attr_method<Device>>("hasDeviceAttr")
      .define(environment);
}

}  // namespace node_kvm
