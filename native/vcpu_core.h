// A vCPU: its descriptor, its kvm_run mapping, the gate of its runs, and its thread where it has one.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "core.h"
#include "gate.h"
#include "mapped_region.h"
#include "run.h"
#include "vm_core.h"

namespace node_kvm {

class VcpuThread;

/**
 * A mapping of the vCPU's descriptor. It keeps the kernel's VM alive even after the descriptor is closed, hence the
 * VM's memory as well.
 */
struct VcpuMapping {
  MappedRegion region;
  std::shared_ptr<VmCore> vm;
};

class VcpuCore : public FileCore {
 public:
  VcpuCore(Fd fd, std::uint32_t id, std::shared_ptr<VmCore> vm, std::size_t xsave_size);
  ~VcpuCore() override;

  std::uint32_t id() const { return id_; }
  const std::shared_ptr<VmCore>& vm() const { return vm_; }
  const std::shared_ptr<VcpuMapping>& mapping() const { return mapping_; }
  kvm_run* run() const { return run_; }
  RunGate& gate() { return gate_; }
  VcpuThread& thread();
  /** What KVM_CAP_XSAVE2 gives, 0 without it. */
  std::size_t xsave_size();

  // One user at a time, of all threads: the kernel would let the second wait, perhaps forever.
  bool try_lock() noexcept { return !busy_.exchange(true, std::memory_order_acquire); }
  void unlock() noexcept { busy_.store(false, std::memory_order_release); }
  bool busy() const noexcept { return busy_.load(std::memory_order_acquire); }

  /**
   * KVM_RUN in the calling thread, which holds the lock. `ending`, where given, is asked now and then whether to give
   * up. `deadline` is in the watchdog's clock.
   */
  template <typename Ending>
  RunResult run_sync(std::int64_t deadline, Ending&& ending);
  /** The same without a deadline, in the vCPU's own thread, where no signal but the kick means anything. */
  RunResult run_async();
  RunResult complete_pending() noexcept;

  std::uint32_t interrupt_cause() const { return interrupt_cause_.load(std::memory_order_relaxed); }

 protected:
  void shut() noexcept override;

 private:
  template <typename Ending>
  RunResult loop(bool ends_by_signal, Ending&& ending);
  void watch(std::int64_t deadline);

  const std::uint32_t id_;
  const std::shared_ptr<VmCore> vm_;
  const std::shared_ptr<VcpuMapping> mapping_;
  std::size_t xsave_size_;
  // What every run touches, side by side.
  kvm_run* const run_;
  std::atomic<bool> busy_{false};
  std::atomic<bool> watched_{false};
  RunGate gate_;
  std::atomic<std::uint32_t> interrupt_cause_{0};
  std::unique_ptr<VcpuThread> thread_;
};

/** The lock of a vCPU while it is in scope; nothing for other kinds of core. Throws ERR_KVM_RUNNING. */
class Exclusive {
 public:
  explicit Exclusive(FileCore& core) {
    if (core.kind() == Kind::kVcpu) take(static_cast<VcpuCore&>(core));
  }
  explicit Exclusive(VcpuCore& vcpu) { take(vcpu); }
  ~Exclusive() {
    if (vcpu_ != nullptr) vcpu_->unlock();
  }
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;
  /** Leaves the lock to somebody else. */
  void hand_over() { vcpu_ = nullptr; }

 private:
  void take(VcpuCore& vcpu) {
    if (!vcpu.try_lock()) [[unlikely]]
      throw_running(vcpu);
    vcpu_ = &vcpu;
  }
  [[noreturn]] static void throw_running(const VcpuCore& vcpu);

  VcpuCore* vcpu_ = nullptr;
};

}  // namespace node_kvm

#include "vcpu_run.h"
