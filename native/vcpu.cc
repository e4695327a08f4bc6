// The class of KVM_CREATE_VCPU.
#include <cmath>
#include <cstring>
#include <optional>

#include "bounce.h"
#include "file_calls.h"
#include "objects.h"
#include "vcpu_thread.h"

namespace node_kvm {

namespace {

constexpr int kCloseLimitMs = 5000;
constexpr int kKickEveryMs = 10;

class Vcpu : public CoreHandle<VcpuCore> {
 public:
  Vcpu(napi_env env, OpenRef<VcpuCore> core)
      : CoreHandle(env, Kind::kVcpu, std::move(core)), run_slot(environment()->runnable.add(this)) {}
  ~Vcpu() override {
    environment()->runnable.remove(run_slot);
    if (run_buffer != nullptr) napi_delete_reference(env(), run_buffer);
    if (completion != nullptr && !environment()->ending) completion->finish();
  }

  /** Ends a command of this handle. False where it did not end in time: the core is leaked then. */
  bool end_command() noexcept {
    if (completion == nullptr || closed()) return true;
    for (int waited = 0; completion->pending(); waited += kKickEveryMs) {
      if (waited >= kCloseLimitMs) {
        new OpenRef<VcpuCore>(open());
        return false;
      }
      core().thread().interrupt();
      completion->wait(kKickEveryMs);
    }
    return true;
  }
  void close() override {
    if (closed()) return;
    const bool ended = end_command();
    const std::uint32_t id = core().id();
    last_cause = core().interrupt_cause();
    buffers.detach(env());
    if (completion != nullptr) completion->finish();
    CoreHandle::close();
    if (!ended) {
      throw StateError("ERR_KVM_STATE",
                       "The thread of vCPU " + std::to_string(id) + " did not leave KVM_RUN within 5 s");
    }
  }
  void tear_down() noexcept override {
    end_command();
    CoreHandle::tear_down();
  }

  TrackedBuffers buffers;
  const std::uint32_t run_slot;
  napi_ref run_buffer = nullptr;
  std::shared_ptr<Completion> completion;
  std::uint32_t last_cause = 0;
  // While a command is pending: this object, and the array that a pre-fault writes back to.
  napi_ref self_reference = nullptr;
  napi_ref range_reference = nullptr;
  const std::shared_ptr<kvm_pre_fault_memory> range = std::make_shared<kvm_pre_fault_memory>();
};

bool is_ending(napi_env env) noexcept {
  // Any call that would run JavaScript is refused once the worker is told to stop; this one runs none.
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return true;
  napi_value object = nullptr;
  napi_value key = nullptr;
  bool result = false;
  const bool alive = napi_create_object(env, &object) == napi_ok && napi_create_uint32(env, 0, &key) == napi_ok &&
                     napi_has_property(env, object, key, &result) == napi_ok;
  napi_close_handle_scope(env, scope);
  return !alive;
}

RunResult run_here(napi_env env, VcpuCore& vcpu, std::int64_t deadline) {
  const Exclusive lock(vcpu);
  return vcpu.run_sync(deadline, [env] { return is_ending(env); });
}

Napi::Value run_sync(Vcpu& self, const Napi::CallbackInfo& info) {
  double timeout = -1;
  if (napi_get_value_double(info.Env(), info[0], &timeout) != napi_ok || std::isnan(timeout)) {
    throw_expected(info.Env(), "a number", "timeoutMs", info[0]);
  }
  VcpuCore& vcpu = self.core();
  std::int64_t deadline = RunGate::kNever;
  if (timeout >= 0 && timeout < 9e12) deadline = Watchdog::now() + static_cast<std::int64_t>(timeout * 1e6);
  return Napi::Number::New(info.Env(), static_cast<double>(run_here(info.Env(), vcpu, deadline)));
}

// The largest result that is an exit_reason and nothing else.
constexpr RunResult kLastPlainExit = 0xffff;

// The hot path. A function of the addon that is told which vCPU, and no method: to unwrap the receiver of a method
// takes as long as all the rest of the call. One function for all vCPUs, since V8 compiles calls of one that it knows.
napi_value run_vcpu(napi_env env, napi_callback_info raw) noexcept {
  std::size_t count = 1;
  napi_value argument = nullptr;
  void* data = nullptr;
  napi_get_cb_info(env, raw, &count, &argument, nullptr, &data);
  return guarded(env, [&]() -> napi_value {
    std::uint32_t slot = UINT32_MAX;
    napi_get_value_uint32(env, argument, &slot);
    const auto* const self = static_cast<const Vcpu*>(static_cast<Environment*>(data)->runnable.at(slot));
    if (self == nullptr) throw_expected(env, "the runSlot of a vCPU", "slot", argument);
    const RunResult result = run_here(env, self->core(), RunGate::kNever);
    // Where nothing is to be said beyond exit_reason, nothing is: to make a number costs as well.
    if (result >= 0 && result <= kLastPlainExit) [[likely]]
      return nullptr;
    napi_value value = nullptr;
    napi_create_int64(env, result, &value);
    return value;
  });
}

Napi::Value get_run_slot(Vcpu& self, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), self.run_slot);
}

Napi::Value kick(Vcpu& self, const Napi::CallbackInfo& info) {
  self.core().gate().kick(boolean_at(info, 0, "sticky"));
  return info.Env().Undefined();
}

Napi::Value stop(Vcpu& self, const Napi::CallbackInfo& info) {
  self.core().gate().interrupt(RunGate::kTimeout);
  return info.Env().Undefined();
}

Napi::Value complete_pending(Vcpu& self, const Napi::CallbackInfo& info) {
  const Exclusive lock(self.core());
  return Napi::Number::New(info.Env(), static_cast<double>(self.core().complete_pending()));
}

void deliver(napi_env env, napi_value callback, void* handle, std::int64_t code) {
  auto& self = *static_cast<Vcpu*>(handle);
  napi_value object = nullptr;
  napi_value range = nullptr;
  if (self.range_reference != nullptr) {
    napi_get_reference_value(env, self.range_reference, &range);
    napi_delete_reference(env, std::exchange(self.range_reference, nullptr));
    try {
      // Detached or resized meanwhile: then nobody looks at it.
      const Bytes bytes = bytes_value(env, range, "range");
      if (bytes.size() >= sizeof *self.range) std::memcpy(bytes.data(), self.range.get(), sizeof *self.range);
    } catch (...) {
    }
  }
  napi_get_reference_value(env, self.self_reference, &object);
  napi_delete_reference(env, std::exchange(self.self_reference, nullptr));
  napi_value receiver = nullptr;
  napi_value number = nullptr;
  napi_get_global(env, &receiver);
  napi_create_int64(env, code, &number);
  // As the event loop does it: promises that are settled by it go on before it returns.
  if (napi_make_callback(env, nullptr, receiver, callback, 1, &number, nullptr) == napi_pending_exception) {
    napi_value error = nullptr;
    if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
  }
}

Napi::Value on_complete(Vcpu& self, const Napi::CallbackInfo& info) {
  self.core();
  if (!info[0].IsFunction()) throw_expected(info.Env(), "a function", "callback", info[0]);
  if (self.completion != nullptr) throw StateError("ERR_KVM_STATE", "onComplete was called before");
  self.completion = Completion::create(info.Env(), info[0], deliver, &self);
  return info.Env().Undefined();
}

void require_idle(Vcpu& self) {
  if (self.completion == nullptr) throw StateError("ERR_KVM_STATE", "onComplete was not called yet");
  if (self.self_reference != nullptr) {
    throw StateError("ERR_KVM_RUNNING", "vCPU " + std::to_string(self.core().id()) + " has a command in progress");
  }
}

void keep(Vcpu& self, const Napi::CallbackInfo& info) {
  if (napi_create_reference(info.Env(), info.This(), 1, &self.self_reference) != napi_ok) {
    throw StateError("ERR_KVM_STATE", "The handle could not be kept");
  }
}

void let_go(napi_env env, napi_ref& reference) {
  if (reference != nullptr) napi_delete_reference(env, std::exchange(reference, nullptr));
}

Napi::Value start_run(Vcpu& self, const Napi::CallbackInfo& info) {
  VcpuCore& vcpu = self.core();
  require_idle(self);
  Exclusive lock(vcpu);
  keep(self, info);
  try {
    vcpu.thread().start_run(self.completion);
  } catch (...) {
    let_go(info.Env(), self.self_reference);
    throw;
  }
  lock.hand_over();
  return info.Env().Undefined();
}

Napi::Value start_pre_fault(Vcpu& self, const Napi::CallbackInfo& info) {
  VcpuCore& vcpu = self.core();
  require_idle(self);
  const Bytes bytes = bytes_at(info, 0, "range");
  require_length(bytes, sizeof *self.range, "range");
  Exclusive lock(vcpu);
  std::memcpy(self.range.get(), bytes.data(), sizeof *self.range);
  keep(self, info);
  try {
    if (napi_create_reference(info.Env(), info[0], 1, &self.range_reference) != napi_ok) throw std::bad_alloc();
    vcpu.thread().start_pre_fault(self.completion, self.range);
  } catch (...) {
    let_go(info.Env(), self.range_reference);
    let_go(info.Env(), self.self_reference);
    throw;
  }
  lock.hand_over();
  return info.Env().Undefined();
}

Napi::Value pre_fault(Vcpu& self, const Napi::CallbackInfo& info) {
  const Exclusive lock(self.core());
  const Bytes bytes = bytes_at(info, 0, "range");
  require_length(bytes, sizeof(kvm_pre_fault_memory), "range");
  check(::ioctl(self.core().fd(), KVM_PRE_FAULT_MEMORY, bytes.data()), "KVM_PRE_FAULT_MEMORY");
  return info.Env().Undefined();
}

Napi::Value get_run(Vcpu& self, const Napi::CallbackInfo& info) {
  const auto& mapping = self.core().mapping();
  napi_value buffer = nullptr;
  if (self.run_buffer != nullptr) {
    napi_get_reference_value(info.Env(), self.run_buffer, &buffer);
    return Napi::Value(info.Env(), buffer);
  }
  self.core().mapping()->region.mark_lent();
  buffer = self.buffers.create(info.Env(), mapping->region.data(), mapping->region.size(), mapping);
  napi_create_reference(info.Env(), buffer, 1, &self.run_buffer);
  return Napi::Value(info.Env(), buffer);
}

Napi::Value map_dirty_ring(Vcpu& self, const Napi::CallbackInfo& info) {
  VcpuCore& vcpu = self.core();
  const auto bytes = static_cast<std::uint64_t>(integer_value(info.Env(), info[0], "bytes", kPageSize, INT32_MAX));
  // Touching the mapping past the end of the ring would raise SIGBUS.
  if (bytes % kPageSize != 0 || bytes > vcpu.vm()->dirty_ring_bytes) {
    throw ArgumentRangeError("Expected at most the " + std::to_string(vcpu.vm()->dirty_ring_bytes) +
                             " bytes that the dirty ring was enabled with, in pages, for bytes but received " +
                             std::to_string(bytes) + " (type number)");
  }
  auto mapping = std::make_shared<VcpuMapping>(VcpuMapping{
      MappedRegion(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd(), kDirtyRingPage * kPageSize), vcpu.vm()});
  mapping->region.mark_lent();
  return Napi::Value(info.Env(), self.buffers.create(info.Env(), mapping->region.data(), bytes, mapping));
}

Napi::Value get_interrupt_cause(Vcpu& self, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), self.closed() ? self.last_cause : self.core().interrupt_cause());
}

Napi::Value get_running(Vcpu& self, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), !self.closed() && self.core().busy());
}

Napi::Value get_xsave(Vcpu& self, const Napi::CallbackInfo& info) {
  VcpuCore& vcpu = self.core();
  const Exclusive lock(vcpu);
  const std::size_t offered = vcpu.xsave_size();
  const GuardedBuffer copy(std::max(offered, sizeof(kvm_xsave)));
  const bool second = offered != 0;
  check(::ioctl(vcpu.fd(), second ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, copy.address()),
        second ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE");
  auto result = Napi::Uint8Array::New(info.Env(), copy.bytes().size());
  copy.copy_to(Bytes(result.Data(), result.ByteLength()));
  return result;
}

Napi::Value set_xsave(Vcpu& self, const Napi::CallbackInfo& info) {
  VcpuCore& vcpu = self.core();
  const Exclusive lock(vcpu);
  const Bytes bytes = bytes_at(info, 0, "bytes");
  require_length(bytes, std::max(vcpu.xsave_size(), sizeof(kvm_xsave)), "bytes");
  const GuardedBuffer copy(bytes);
  check(::ioctl(vcpu.fd(), KVM_SET_XSAVE, copy.address()), "KVM_SET_XSAVE");
  return info.Env().Undefined();
}

Napi::Value one_reg(Vcpu& self, const Napi::CallbackInfo& info, bool set) {
  VcpuCore& vcpu = self.core();
  const Exclusive lock(vcpu);
  const std::uint64_t id = u64_at(info, 0, "id");
  const Bytes value = bytes_at(info, 1, "value");
  // The id says its size, as a power of two; the largest that it can say is 2^15, the largest that there is 256.
  const std::uint64_t size = std::uint64_t{1} << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
  require_length(value, size, "value");
  const GuardedBuffer copy(value.first(size));
  kvm_one_reg reg = {.id = id, .addr = copy.address()};
  check(::ioctl(vcpu.fd(), set ? KVM_SET_ONE_REG : KVM_GET_ONE_REG, &reg), set ? "KVM_SET_ONE_REG" : "KVM_GET_ONE_REG");
  if (!set) copy.copy_to(value);
  return info.Env().Undefined();
}

Napi::Value get_one_reg(Vcpu& self, const Napi::CallbackInfo& info) { return one_reg(self, info, false); }
Napi::Value set_one_reg(Vcpu& self, const Napi::CallbackInfo& info) { return one_reg(self, info, true); }

}  // namespace

Napi::Value new_vcpu_handle(napi_env env, OpenRef<VcpuCore> core) {
  return wrap(env, std::make_unique<Vcpu>(env, std::move(core)));
}

Napi::Value adopt_vcpu(const Napi::CallbackInfo& info) {
  return new_vcpu_handle(info.Env(), adopt_core<VcpuCore>(u64_at(info, 0, "token"), Kind::kVcpu));
}

napi_value run_vcpu_function(Environment& environment) {
  napi_value function = nullptr;
  napi_create_function(environment.env, "runVcpu", NAPI_AUTO_LENGTH, run_vcpu, &environment, &function);
  return function;
}

void define_vcpu(Environment& environment) {
  ClassDefinition<Vcpu, Kind::kVcpu>()
      .getter<get_fd<Vcpu>>("fd")
      .getter<get_run>("run")
      .getter<get_interrupt_cause>("interruptCause")
      .getter<get_running>("running")
      .getter<get_run_slot>("runSlot")
      .method<run_sync>("runSync")
      .method<kick>("kick")
      .method<stop>("stop")
      .method<ioctl_method<Vcpu>>("ioctl")
      .method<get_device_attr<Vcpu>>("getDeviceAttr")
      .method<set_device_attr<Vcpu>>("setDeviceAttr")
      .method<has_device_attr_method<Vcpu>>("hasDeviceAttr")
      .method<on_complete>("onComplete")
      .method<start_run>("startRun")
      .method<start_pre_fault>("startPreFault")
      .method<pre_fault>("preFault")
      .method<complete_pending>("completePending")
      .method<map_dirty_ring>("mapDirtyRing")
      .method<get_xsave>("getXsave")
      .method<set_xsave>("setXsave")
      .method<get_one_reg>("getOneReg")
      .method<set_one_reg>("setOneReg")
      .method<stats_fd_method<Vcpu>>("getStatsFd")
      .method<memory_encrypt_op_method<Vcpu>>("memoryEncryptOp")
      .define(environment);
}

}  // namespace node_kvm
