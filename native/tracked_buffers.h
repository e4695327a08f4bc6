// ArrayBuffers over memory of the addon, which one handle has given out and detaches when it is closed.
#pragma once

#include <napi.h>

#include <cstddef>
#include <memory>
#include <vector>

namespace node_kvm {

class TrackedBuffers {
 public:
  ~TrackedBuffers();

  /** `keep` holds the memory until the buffer is detached here, or its backing store is freed. */
  napi_value create(napi_env env, void* data, std::size_t length, std::shared_ptr<void> keep);
  /**
   * Detaches them all. A buffer that is already detached, but whose backing store lives on, was transferred: it keeps
   * its memory.
   */
  void detach(napi_env env) noexcept;
  /** Whether memory of some buffer is still held. */
  bool lent() const noexcept;

 private:
  struct Hold {
    std::shared_ptr<void> keep;
  };
  struct Entry {
    napi_env env;
    napi_ref reference;
    std::weak_ptr<Hold> hold;
  };
  void prune() noexcept;
  static void drop(const Entry& entry) noexcept;

  std::vector<Entry> entries_;
  std::size_t prune_at_ = 16;
};

}  // namespace node_kvm
