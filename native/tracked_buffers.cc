#include "tracked_buffers.h"

#include <algorithm>
#include <utility>

#include "error.h"

namespace node_kvm {

TrackedBuffers::~TrackedBuffers() {
  // The buffers themselves stay as they are: their memory is held by what their finalizers drop.
  for (const Entry& entry : entries_) drop(entry);
}

void TrackedBuffers::drop(const Entry& entry) noexcept { napi_delete_reference(entry.env, entry.reference); }

void TrackedBuffers::prune() noexcept {
  std::erase_if(entries_, [](const Entry& entry) {
    if (!entry.hold.expired()) return false;
    drop(entry);
    return true;
  });
  prune_at_ = entries_.size() * 2 + 16;
}

napi_value TrackedBuffers::create(napi_env env, void* data, std::size_t length, std::shared_ptr<void> keep) {
  napi_value buffer = nullptr;
  if (length == 0) {
    napi_create_arraybuffer(env, 0, nullptr, &buffer);
    return buffer;
  }
  if (entries_.size() >= prune_at_) prune();
  entries_.reserve(entries_.size() + 1);
  auto hold = std::make_shared<Hold>(Hold{std::move(keep)});
  auto for_finalizer = std::make_unique<std::shared_ptr<Hold>>(hold);
  const auto finalize = [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<Hold>*>(hint); };
  const napi_status status =
      napi_create_external_arraybuffer(env, data, length, finalize, for_finalizer.get(), &buffer);
  if (status == napi_no_external_buffers_allowed) {
    throw StateError("ERR_KVM_STATE", "This JavaScript engine does not allow ArrayBuffers over foreign memory");
  }
  // Whether a failed call has run the finalizer, or will, is not told: what it deletes is left to it, but empty.
  for_finalizer.release();
  if (status != napi_ok) {
    hold->keep.reset();
    throw StateError("ERR_KVM_STATE", "The ArrayBuffer could not be made");
  }
  napi_ref reference = nullptr;
  if (napi_create_reference(env, buffer, 0, &reference) != napi_ok) {
    napi_detach_arraybuffer(env, buffer);
    throw StateError("ERR_KVM_STATE", "The ArrayBuffer could not be tracked");
  }
  entries_.push_back({env, reference, hold});
  return buffer;
}

bool TrackedBuffers::lent() const noexcept {
  return std::any_of(entries_.begin(), entries_.end(), [](const Entry& entry) { return !entry.hold.expired(); });
}

void TrackedBuffers::detach(napi_env env) noexcept {
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  for (const Entry& entry : std::exchange(entries_, {})) {
    napi_value buffer = nullptr;
    bool already = false;
    if (napi_get_reference_value(env, entry.reference, &buffer) == napi_ok && buffer != nullptr &&
        napi_is_detached_arraybuffer(env, buffer, &already) == napi_ok && !already &&
        napi_detach_arraybuffer(env, buffer) == napi_ok) {
      if (const auto hold = entry.hold.lock()) hold->keep.reset();
    }
    drop(entry);
  }
  napi_close_handle_scope(env, scope);
}

}  // namespace node_kvm
