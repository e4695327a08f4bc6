// KVM_MEMORY_ENCRYPT_OP, raw: SEV and TDX commands, whose structs point to further structs and buffers.
#include <cstring>
#include <deque>
#include <optional>
#include <vector>

#include "bounce.h"
#include "file_calls.h"
#include "objects.h"

namespace node_kvm {

namespace {

struct Pointer {
  std::uint64_t at;
  napi_value target;
};

// All getters run here, before any address is taken.
std::vector<Pointer> pointers_of(const Napi::CallbackInfo& info, std::size_t at) {
  if (!info[at].IsArray()) throw_expected(info.Env(), "an array", "pointers", info[at]);
  const auto array = info[at].As<Napi::Array>();
  std::vector<Pointer> pointers;
  for (std::uint32_t i = 0, count = array.Length(); i < count; i++) {
    const Napi::Value value = array.Get(i);
    if (!value.IsObject()) throw_expected(info.Env(), "an object", "pointers[]", value);
    const auto object = value.As<Napi::Object>();
    pointers.push_back({
        static_cast<std::uint64_t>(integer_value(info.Env(), object.Get("at"), "at", 0, UINT32_MAX)),
        object.Get("target"),
    });
  }
  return pointers;
}

void put_address(Bytes into, std::uint64_t at, std::uint64_t address, const char* name) {
  if (at > into.size() || into.size() - at < sizeof address) {
    throw ArgumentRangeError(std::string("Expected an offset inside the struct for ") + name + " but received " +
                             std::to_string(at) + " (type number)");
  }
  std::memcpy(into.data() + at, &address, sizeof address);
}

}  // namespace

void memory_encrypt_op(FileCore& core, const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const std::vector<Pointer> pointers = pointers_of(info, 3);
  const auto optional_bytes = [&](std::size_t at, const char* name) {
    return is_nullish(env, info[at]) ? Bytes() : bytes_at(info, at, name);
  };
  const Bytes command = optional_bytes(0, "command");
  const Bytes data = optional_bytes(2, "data");

  std::deque<GuardedBuffer> targets;
  GuardedBuffer data_copy(data);
  std::vector<Bytes> originals;
  for (const Pointer& pointer : pointers) {
    originals.push_back(bytes_value(env, pointer.target, "target"));
    const GuardedBuffer& copy = targets.emplace_back(originals.back());
    put_address(data_copy.bytes(), pointer.at, copy.address(), "pointers[].at");
  }
  std::uint64_t argument = 0;
  std::optional<GuardedBuffer> command_copy;
  const std::uint64_t data_at = static_cast<std::uint64_t>(integer_value(env, info[1], "dataAt", 0, UINT32_MAX));
  if (!is_nullish(env, info[0])) {
    command_copy.emplace(command);
    if (!is_nullish(env, info[2])) put_address(command_copy->bytes(), data_at, data_copy.address(), "dataAt");
    argument = command_copy->address();
  }
  const Exclusive lock(core);
  const int result = ::ioctl(core.fd(), KVM_MEMORY_ENCRYPT_OP, argument);
  const int number = errno;
  // Also after a failure: the command then holds the firmware's own error. What held an address gets its old bytes
  // back, so that no address of this process is seen.
  const auto word_at = [](Bytes from, std::uint64_t at) {
    std::uint64_t word = 0;
    std::memcpy(&word, from.data() + at, sizeof word);
    return word;
  };
  if (command_copy) {
    const bool holds = !is_nullish(env, info[2]);
    const std::uint64_t kept = holds ? word_at(command, data_at) : 0;
    command_copy->copy_to(command);
    if (holds) std::memcpy(command.data() + data_at, &kept, sizeof kept);
  }
  if (!data.empty()) {
    std::vector<std::uint64_t> kept;
    for (const Pointer& pointer : pointers) kept.push_back(word_at(data, pointer.at));
    data_copy.copy_to(data);
    for (std::size_t i = 0; i < pointers.size(); i++) {
      std::memcpy(data.data() + pointers[i].at, &kept[i], sizeof kept[i]);
    }
  }
  for (std::size_t i = 0; i < targets.size(); i++) targets[i].copy_to(originals[i]);
  if (result < 0) throw SystemError(number, "KVM_MEMORY_ENCRYPT_OP");
}

}  // namespace node_kvm
