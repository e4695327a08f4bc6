// The table of ioctls that are reached by number, and the checks that keep the kernel inside the buffer it is given.
#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "file_calls.h"
#include "kick_signal.h"
#include "vcpu_core.h"

namespace node_kvm {

namespace {

enum : unsigned { kSys = 1, kOnVm = 2, kOnVcpu = 4 };

enum class Shape {
  kNone,
  kValue,
  /** As long as the request's number says, or `header` where that says nothing. */
  kStruct,
  /** `header` bytes, then `entry` bytes for each of the 32-bit count at `count_at` (64-bit for `entry` of 8 and
     REG_LIST). */
  kCounted,
  /** The 32-bit field at `count_at` is the size of the whole, at least `header`. */
  kSized,
  kSignalMask,
  kEnableCap,
  /** Not by number: `method` is the way. */
  kMethod,
};

struct Request {
  const char* name;
  unsigned kinds;
  Shape shape;
  std::uint32_t header = 0;
  std::uint32_t count_at = 0;
  std::uint32_t entry = 0;
  const char* method = nullptr;
};

// clang-format off
#define NONE(name, kinds) {name, {#name, kinds, Shape::kNone}}
#define VALUE(name, kinds) {name, {#name, kinds, Shape::kValue}}
#define STRUCT(name, kinds) {name, {#name, kinds, Shape::kStruct, _IOC_SIZE(name)}}
#define COUNTED(name, kinds, header, count_at, entry) {name, {#name, kinds, Shape::kCounted, header, count_at, entry}}
#define METHOD(name, method) {name, {#name, kSys | kOnVm | kOnVcpu, Shape::kMethod, 0, 0, 0, method}}
// clang-format on

const std::unordered_map<std::uint32_t, Request>& table() {
  static const auto& requests = *new std::unordered_map<std::uint32_t, Request>{
      NONE(KVM_GET_API_VERSION, kSys),
      VALUE(KVM_CHECK_EXTENSION, kSys | kOnVm),
      NONE(KVM_GET_VCPU_MMAP_SIZE, kSys),
      COUNTED(KVM_GET_MSR_INDEX_LIST, kSys, 4, 0, 4),
      COUNTED(KVM_GET_MSR_FEATURE_INDEX_LIST, kSys, 4, 0, 4),
      COUNTED(KVM_GET_SUPPORTED_CPUID, kSys, 8, 0, sizeof(kvm_cpuid_entry2)),
      COUNTED(KVM_GET_EMULATED_CPUID, kSys, 8, 0, sizeof(kvm_cpuid_entry2)),
      COUNTED(KVM_GET_SUPPORTED_HV_CPUID, kSys | kOnVcpu, 8, 0, sizeof(kvm_cpuid_entry2)),
      STRUCT(KVM_X86_GET_MCE_CAP_SUPPORTED, kSys),

      {KVM_ENABLE_CAP, {"KVM_ENABLE_CAP", kOnVm | kOnVcpu, Shape::kEnableCap, sizeof(kvm_enable_cap)}},
      NONE(KVM_RESET_DIRTY_RINGS, kOnVm),
      VALUE(KVM_SET_TSS_ADDR, kOnVm),
      VALUE(KVM_SET_NR_MMU_PAGES, kOnVm),
      STRUCT(KVM_SET_IDENTITY_MAP_ADDR, kOnVm),
      STRUCT(KVM_SET_MEMORY_ATTRIBUTES, kOnVm),
      NONE(KVM_CREATE_IRQCHIP, kOnVm),
      STRUCT(KVM_IRQ_LINE, kOnVm),
      STRUCT(KVM_IRQ_LINE_STATUS, kOnVm),
      STRUCT(KVM_GET_IRQCHIP, kOnVm),
      STRUCT(KVM_SET_IRQCHIP, kOnVm),
      STRUCT(KVM_CREATE_PIT2, kOnVm),
      STRUCT(KVM_GET_PIT2, kOnVm),
      STRUCT(KVM_SET_PIT2, kOnVm),
      // Numbered as if it had no argument, and takes a struct.
      {KVM_REINJECT_CONTROL, {"KVM_REINJECT_CONTROL", kOnVm, Shape::kStruct, sizeof(kvm_reinject_control)}},
      VALUE(KVM_SET_BOOT_CPU_ID, kOnVm),
      COUNTED(KVM_SET_GSI_ROUTING, kOnVm, 8, 0, sizeof(kvm_irq_routing_entry)),
      STRUCT(KVM_IRQFD, kOnVm),
      STRUCT(KVM_IOEVENTFD, kOnVm),
      STRUCT(KVM_SIGNAL_MSI, kOnVm),
      STRUCT(KVM_REGISTER_COALESCED_MMIO, kOnVm),
      STRUCT(KVM_UNREGISTER_COALESCED_MMIO, kOnVm),
      STRUCT(KVM_SET_CLOCK, kOnVm),
      STRUCT(KVM_GET_CLOCK, kOnVm),
      COUNTED(KVM_SET_PMU_EVENT_FILTER, kOnVm, sizeof(kvm_pmu_event_filter), 4, 8),
      STRUCT(KVM_HYPERV_EVENTFD, kOnVm),
      VALUE(KVM_SET_TSC_KHZ, kOnVm | kOnVcpu),
      NONE(KVM_GET_TSC_KHZ, kOnVm | kOnVcpu),

      STRUCT(KVM_GET_REGS, kOnVcpu),
      STRUCT(KVM_SET_REGS, kOnVcpu),
      STRUCT(KVM_GET_SREGS, kOnVcpu),
      STRUCT(KVM_SET_SREGS, kOnVcpu),
      STRUCT(KVM_GET_SREGS2, kOnVcpu),
      STRUCT(KVM_SET_SREGS2, kOnVcpu),
      STRUCT(KVM_TRANSLATE, kOnVcpu),
      STRUCT(KVM_INTERRUPT, kOnVcpu),
      COUNTED(KVM_GET_MSRS, kSys | kOnVcpu, 8, 0, sizeof(kvm_msr_entry)),
      COUNTED(KVM_SET_MSRS, kOnVcpu, 8, 0, sizeof(kvm_msr_entry)),
      COUNTED(KVM_SET_CPUID2, kOnVcpu, 8, 0, sizeof(kvm_cpuid_entry2)),
      COUNTED(KVM_GET_CPUID2, kOnVcpu, 8, 0, sizeof(kvm_cpuid_entry2)),
      {KVM_SET_SIGNAL_MASK, {"KVM_SET_SIGNAL_MASK", kOnVcpu, Shape::kSignalMask, 4 + kSignalSetSize}},
      STRUCT(KVM_GET_FPU, kOnVcpu),
      STRUCT(KVM_SET_FPU, kOnVcpu),
      STRUCT(KVM_GET_LAPIC, kOnVcpu),
      STRUCT(KVM_SET_LAPIC, kOnVcpu),
      STRUCT(KVM_TPR_ACCESS_REPORTING, kOnVcpu),
      STRUCT(KVM_SET_VAPIC_ADDR, kOnVcpu),
      STRUCT(KVM_GET_MP_STATE, kOnVcpu),
      STRUCT(KVM_SET_MP_STATE, kOnVcpu),
      NONE(KVM_NMI, kOnVcpu),
      NONE(KVM_SMI, kOnVcpu),
      STRUCT(KVM_SET_GUEST_DEBUG, kOnVcpu),
      STRUCT(KVM_X86_SETUP_MCE, kOnVcpu),
      STRUCT(KVM_X86_SET_MCE, kOnVcpu),
      STRUCT(KVM_GET_VCPU_EVENTS, kOnVcpu),
      STRUCT(KVM_SET_VCPU_EVENTS, kOnVcpu),
      STRUCT(KVM_GET_DEBUGREGS, kOnVcpu),
      STRUCT(KVM_SET_DEBUGREGS, kOnVcpu),
      STRUCT(KVM_GET_XSAVE, kOnVcpu),
      STRUCT(KVM_GET_XCRS, kOnVcpu),
      STRUCT(KVM_SET_XCRS, kOnVcpu),
      {KVM_GET_REG_LIST, {"KVM_GET_REG_LIST", kOnVcpu, Shape::kCounted, 8, 0, 8}},
      NONE(KVM_KVMCLOCK_CTRL, kOnVcpu),
      {KVM_GET_NESTED_STATE, {"KVM_GET_NESTED_STATE", kOnVcpu, Shape::kSized, 128, 4}},
      {KVM_SET_NESTED_STATE, {"KVM_SET_NESTED_STATE", kOnVcpu, Shape::kSized, 128, 4}},

      METHOD(KVM_CREATE_VM, "createVm"),
      METHOD(KVM_CREATE_VCPU, "createVcpu"),
      METHOD(KVM_CREATE_GUEST_MEMFD, "createGuestMemfd"),
      METHOD(KVM_CREATE_DEVICE, "createDevice"),
      METHOD(KVM_GET_STATS_FD, "getStatsFd"),
      METHOD(KVM_SET_USER_MEMORY_REGION, "setUserMemoryRegion"),
      METHOD(KVM_SET_USER_MEMORY_REGION2, "setUserMemoryRegion"),
      METHOD(KVM_GET_DIRTY_LOG, "getDirtyLog"),
      METHOD(KVM_CLEAR_DIRTY_LOG, "clearDirtyLog"),
      METHOD(KVM_X86_SET_MSR_FILTER, "setMsrFilter"),
      METHOD(KVM_MEMORY_ENCRYPT_OP, "memoryEncryptOp"),
      METHOD(KVM_MEMORY_ENCRYPT_REG_REGION, "memoryEncryptRegion"),
      METHOD(KVM_MEMORY_ENCRYPT_UNREG_REGION, "memoryEncryptRegion"),
      METHOD(KVM_SET_DEVICE_ATTR, "setDeviceAttr"),
      METHOD(KVM_GET_DEVICE_ATTR, "getDeviceAttr"),
      METHOD(KVM_HAS_DEVICE_ATTR, "hasDeviceAttr"),
      METHOD(KVM_GET_ONE_REG, "getOneReg"),
      METHOD(KVM_SET_ONE_REG, "setOneReg"),
      METHOD(KVM_SET_XSAVE, "setXsave"),
      METHOD(KVM_GET_XSAVE2, "getXsave"),
      METHOD(KVM_RUN, "runSync"),
      METHOD(KVM_PRE_FAULT_MEMORY, "preFault"),
  };
  return requests;
}

#undef NONE
#undef VALUE
#undef STRUCT
#undef COUNTED
#undef METHOD

unsigned kind_bit(Kind kind) {
  switch (kind) {
    case Kind::kSystem: return kSys;
    case Kind::kVm: return kOnVm;
    case Kind::kVcpu: return kOnVcpu;
    default: return 0;
  }
}

const Request& find(const FileCore& core, std::uint32_t number) {
  const auto found = table().find(number);
  if (found == table().end()) {
    throw ArgumentTypeError("Expected a known KVM request for request but received " + std::to_string(number) +
                            " (type number)");
  }
  const Request& request = found->second;
  if (request.shape == Shape::kMethod) {
    throw ArgumentTypeError(std::string(request.name) + " is not reached by number: use " + request.method + "()");
  }
  if ((request.kinds & kind_bit(core.kind())) == 0) {
    throw ArgumentTypeError(std::string(request.name) + " is not a request of a " + kind_name(core.kind()));
  }
  return request;
}

unsigned long value_argument(const Napi::CallbackInfo& info) {
  if (info[1].IsBigInt()) return u64_at(info, 1, "argument");
  return static_cast<unsigned long>(integer_value(info.Env(), info[1], "argument", 0, INT64_C(1) << 53));
}

// How much of the buffer the kernel may touch, by the count in the copy.
std::uint64_t needed_length(const Request& request, const std::uint8_t* copy) {
  if (request.shape != Shape::kCounted && request.shape != Shape::kSized) return request.header;
  std::uint64_t count = 0;
  // The register list alone counts in 64 bits; cut off so that the product below cannot wrap.
  const bool wide = request.header == 8 && request.entry == 8;
  std::memcpy(&count, copy + request.count_at, wide ? 8 : 4);
  count = std::min<std::uint64_t>(count, UINT32_MAX);
  if (request.shape == Shape::kSized) return std::max<std::uint64_t>(request.header, count);
  return request.header + count * request.entry;
}

int enable_cap(FileCore& core, std::uint8_t* copy) {
  auto* const cap = reinterpret_cast<kvm_enable_cap*>(copy);
  std::uint16_t evmcs_version = 0;
  const bool evmcs = cap->cap == KVM_CAP_HYPERV_ENLIGHTENED_VMCS;
  const std::uint64_t given = cap->args[0];
  // The one capability with a pointer, to where the version goes: it comes back in args[0].
  if (evmcs) cap->args[0] = given == 0 ? 0 : reinterpret_cast<std::uint64_t>(&evmcs_version);
  const int result = ::ioctl(core.fd(), KVM_ENABLE_CAP, cap);
  const int number = errno;
  if (evmcs) cap->args[0] = given == 0 ? 0 : evmcs_version;
  if (result >= 0 && core.kind() == Kind::kVm &&
      (cap->cap == KVM_CAP_DIRTY_LOG_RING || cap->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL)) {
    static_cast<VmCore&>(core).dirty_ring_bytes = cap->args[0];
  }
  errno = number;
  return result;
}

int call_with_copy(FileCore& core, std::uint32_t number, const Request& request, Bytes original) {
  require_length(original, request.header, "argument");
  // A copy, since the bytes may be memory that a guest or another thread writes: the count that was checked is the
  // count that the kernel reads.
  std::vector<std::uint64_t> words(request.header / 8 + 1);
  auto* copy = reinterpret_cast<std::uint8_t*>(words.data());
  std::copy_n(original.begin(), request.header, copy);
  const std::uint64_t length = needed_length(request, copy);
  require_length(original, length, "argument");
  if (length > request.header) {
    words.resize(length / 8 + 1);
    copy = reinterpret_cast<std::uint8_t*>(words.data());
    std::copy_n(original.begin() + request.header, length - request.header, copy + request.header);
  }
  int result;
  if (request.shape == Shape::kEnableCap) {
    result = enable_cap(core, copy);
  } else if (request.shape == Shape::kSignalMask) {
    std::uint32_t set_size = 0;
    std::memcpy(&set_size, copy, sizeof set_size);
    if (set_size != kSignalSetSize)
      throw ArgumentRangeError("Expected 8 for len but received " + std::to_string(set_size));
    const int bit = kick_signal() - 1;
    copy[4 + bit / 8] &= static_cast<std::uint8_t>(~(1u << (bit % 8)));
    return ::ioctl(core.fd(), number, copy);
  } else {
    result = ::ioctl(core.fd(), number, copy);
  }
  const int failure = errno;
  // Also after a failure: with E2BIG some requests say how much they need.
  std::copy_n(copy, length, original.begin());
  errno = failure;
  return result;
}

}  // namespace

int table_ioctl(FileCore& core, const Napi::CallbackInfo& info) {
  const std::uint32_t number = u32_at(info, 0, "request");
  const Request& request = find(core, number);
  const Exclusive lock(core);
  int result = 0;
  switch (request.shape) {
    case Shape::kNone:
      if (info[1].IsTypedArray()) throw_expected(info.Env(), "no argument", "argument", info[1]);
      result = ::ioctl(core.fd(), number, 0);
      break;
    case Shape::kValue: result = ::ioctl(core.fd(), number, value_argument(info)); break;
    case Shape::kStruct: {
      const Bytes bytes = bytes_at(info, 1, "argument");
      require_length(bytes, request.header, "argument");
      result = ::ioctl(core.fd(), number, bytes.data());
      break;
    }
    case Shape::kSignalMask:
      if (is_nullish(info.Env(), info[1])) {
        result = ::ioctl(core.fd(), number, nullptr);
        break;
      }
      [[fallthrough]];
    default: result = call_with_copy(core, number, request, bytes_at(info, 1, "argument"));
  }
  return check(result, request.name);
}

}  // namespace node_kvm
