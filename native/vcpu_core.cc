#include "vcpu_core.h"

#include <string>

#include "vcpu_thread.h"

namespace node_kvm {

VcpuCore::VcpuCore(Fd fd, std::uint32_t id, std::shared_ptr<VmCore> vm, std::size_t xsave_size)
    : FileCore(Kind::kVcpu, std::move(fd)),
      id_(id),
      vm_(std::move(vm)),
      mapping_(std::make_shared<VcpuMapping>(
          VcpuMapping{MappedRegion(vm_->vcpu_mmap_size(), PROT_READ | PROT_WRITE, MAP_SHARED, this->fd(), 0), vm_})),
      xsave_size_(xsave_size),
      run_(reinterpret_cast<kvm_run*>(mapping_->region.data())),
      gate_(run_),
      thread_(std::make_unique<VcpuThread>(*this)) {}

VcpuCore::~VcpuCore() {
  if (watched_) Watchdog::instance().remove(&gate_);
}

VcpuThread& VcpuCore::thread() { return *thread_; }

void VcpuCore::shut() noexcept {
  thread_->stop();
  FileCore::shut();
}

std::size_t VcpuCore::xsave_size() {
  // It grows when the process asks for larger state components. The last answer stands where the VM is closed.
  if (const auto vm = OpenRef<VmCore>::try_of(vm_)) {
    const int size = ::ioctl(vm->fd(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    if (size >= 0) xsave_size_ = static_cast<std::size_t>(size);
  }
  return xsave_size_;
}

void VcpuCore::watch(std::int64_t deadline) {
  auto& watchdog = Watchdog::instance();
  if (!watched_.load(std::memory_order_relaxed)) [[unlikely]] {
    watchdog.add(&gate_);
    watched_.store(true, std::memory_order_relaxed);
  }
  watchdog.watch(deadline);
}

RunResult VcpuCore::run_async() {
  gate_.begin(KickableThread::current().id, RunGate::Mode::kPlain, RunGate::kNever);
  return loop(false, [] { return false; });
}

RunResult VcpuCore::complete_pending() noexcept {
  // Never blocks, so it needs no gate; a sticky kick is left for the next real run.
  const std::atomic_ref immediate(run()->immediate_exit);
  immediate.store(1, std::memory_order_relaxed);
  const RunResult result = run_once(fd(), run());
  immediate.store(0, std::memory_order_relaxed);
  return result;
}

void Exclusive::throw_running(const VcpuCore& vcpu) {
  throw StateError("ERR_KVM_RUNNING", "vCPU " + std::to_string(vcpu.id()) + " is running");
}

}  // namespace node_kvm
