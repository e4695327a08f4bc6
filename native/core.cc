#include "core.h"

#include <sys/random.h>

#include <map>
#include <mutex>
#include <string>

namespace node_kvm {

namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::uint64_t, std::weak_ptr<Core>> by_token;
};

// Never destroyed: threads of the process may still be at work while exit() runs destructors.
Registry& registry() {
  static auto& it = *new Registry;
  return it;
}

bool same_owner(const std::weak_ptr<Core>& a, const std::shared_ptr<Core>& b) {
  return !a.owner_before(b) && !b.owner_before(a);
}

}  // namespace

const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::kSystem: return "System";
    case Kind::kVm: return "Vm";
    case Kind::kVcpu: return "Vcpu";
    case Kind::kGuestMemfd: return "GuestMemfd";
    case Kind::kHostFile: return "HostFile";
    case Kind::kDevice: return "Device";
    case Kind::kReadable: return "Readable";
    case Kind::kEventfd: return "Eventfd";
    case Kind::kMapping: return "Mapping";
    case Kind::kCount: break;
  }
  return "Object";
}

std::uint64_t token_of(const std::shared_ptr<Core>& core) {
  auto& all = registry();
  const std::lock_guard lock(all.mutex);
  std::erase_if(all.by_token, [](const auto& entry) { return entry.second.expired(); });
  for (const auto& [token, known] : all.by_token) {
    if (same_owner(known, core)) return token;
  }
  // Random, so that a token of an object that is gone never names another one.
  std::uint64_t token = 0;
  while (token == 0 || all.by_token.contains(token)) {
    if (::getrandom(&token, sizeof token, 0) != sizeof token && errno != EINTR) throw SystemError(errno, "getrandom");
  }
  all.by_token.emplace(token, core);
  return token;
}

std::shared_ptr<Core> core_of(std::uint64_t token, Kind kind) {
  auto& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.by_token.find(token);
  auto core = found == all.by_token.end() ? nullptr : found->second.lock();
  if (core == nullptr) throw_closed(kind_name(kind));
  if (core->kind() != kind) {
    throw ArgumentTypeError(std::string("Expected the token of a ") + kind_name(kind) +
                            " for token but received that of a " + kind_name(core->kind()));
  }
  return core;
}

}  // namespace node_kvm
