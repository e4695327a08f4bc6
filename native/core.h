// What stands behind the handles: one core per kernel object, shared by the handles of all threads.
//
// Two counts: the shared_ptr keeps the core's memory, an OpenRef keeps its descriptor open. A handle holds one OpenRef,
// and so does each call that is in progress outside of the handle's own thread; the descriptor is closed with the last.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "error.h"
#include "fd.h"

namespace node_kvm {

enum class Kind : std::uint32_t {
  kSystem,
  kVm,
  kVcpu,
  kGuestMemfd,
  kHostFile,
  kDevice,
  kReadable,
  kEventfd,
  kMapping,
  kCount,
};

const char* kind_name(Kind kind);

class Core {
 public:
  explicit Core(Kind kind) : kind_(kind) {}
  virtual ~Core() = default;
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;
  Kind kind() const { return kind_; }

  bool try_open() noexcept {
    std::uint32_t users = users_.load(std::memory_order_relaxed);
    while (users != 0) {
      if (users_.compare_exchange_weak(users, users + 1, std::memory_order_acquire)) return true;
    }
    return false;
  }
  void release() noexcept {
    if (users_.fetch_sub(1, std::memory_order_acq_rel) == 1) shut();
  }

 protected:
  /** Gives back what the kernel holds. Called once, by the last OpenRef. */
  virtual void shut() noexcept {}

 private:
  const Kind kind_;
  std::atomic<std::uint32_t> users_{1};
};

class FileCore : public Core {
 public:
  FileCore(Kind kind, Fd fd) : Core(kind), fd_(std::move(fd)) {}
  int fd() const { return fd_.get(); }

 protected:
  void shut() noexcept override { fd_.reset(); }

 private:
  Fd fd_;
};

template <typename T>
class OpenRef {
 public:
  OpenRef() = default;
  /** Takes the count that a new core is born with. */
  static OpenRef adopt_new(std::shared_ptr<T> core) { return OpenRef(std::move(core)); }
  /** Empty where the core is already shut. */
  static OpenRef try_of(std::shared_ptr<T> core) {
    return core != nullptr && core->try_open() ? OpenRef(std::move(core)) : OpenRef();
  }
  OpenRef(const OpenRef& other) : core_(other.core_) {
    if (core_ != nullptr && !core_->try_open()) core_.reset();
  }
  OpenRef(OpenRef&& other) noexcept : core_(std::move(other.core_)) {}
  OpenRef& operator=(OpenRef other) noexcept {
    std::swap(core_, other.core_);
    return *this;
  }
  ~OpenRef() { reset(); }

  void reset() noexcept {
    if (const auto core = std::exchange(core_, nullptr)) core->release();
  }
  explicit operator bool() const { return core_ != nullptr; }
  T* operator->() const { return core_.get(); }
  T& operator*() const { return *core_; }
  const std::shared_ptr<T>& shared() const { return core_; }

 private:
  explicit OpenRef(std::shared_ptr<T> core) : core_(std::move(core)) {}
  std::shared_ptr<T> core_;
};

/** The process-wide name of a core. The same core always gets the same one. */
std::uint64_t token_of(const std::shared_ptr<Core>& core);

/** The core of a token; throws ERR_KVM_CLOSED where it is gone, TypeError where it is of another kind. */
std::shared_ptr<Core> core_of(std::uint64_t token, Kind kind);

template <typename T>
OpenRef<T> adopt_core(std::uint64_t token, Kind kind) {
  auto ref = OpenRef<T>::try_of(std::static_pointer_cast<T>(core_of(token, kind)));
  if (!ref) throw_closed(kind_name(kind));
  return ref;
}

}  // namespace node_kvm
