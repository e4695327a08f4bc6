// What the compiler says about the kernel's structs and numbers, to be compared with the tables in TypeScript.
#include "objects.h"
#include "uapi.h"

namespace node_kvm {

Napi::Value make_layout(napi_env env) {
  const auto sizes = Napi::Object::New(env);
  const auto offsets = Napi::Object::New(env);
  const auto constants = Napi::Object::New(env);
#define SIZE(type) sizes.Set(#type, static_cast<double>(sizeof(struct type)));
#define FIELD(type, field) offsets.Set(#type "." #field, static_cast<double>(offsetof(struct type, field)));
#define CONSTANT(name) constants.Set(#name, Napi::BigInt::New(env, static_cast<std::uint64_t>(name)));
#include "layout_constants.h"
#include "layout_tables.h"
#undef SIZE
#undef FIELD
#undef CONSTANT
  // Exit data that older headers do not name.
  offsets.Set("kvm_run.memory_fault.flags", static_cast<double>(kExitDataOffset + offsetof(MemoryFaultExit, flags)));
  offsets.Set("kvm_run.memory_fault.gpa", static_cast<double>(kExitDataOffset + offsetof(MemoryFaultExit, gpa)));
  offsets.Set("kvm_run.memory_fault.size", static_cast<double>(kExitDataOffset + offsetof(MemoryFaultExit, size)));
  sizes.Set("kvm_signal_mask", static_cast<double>(4 + kSignalSetSize));
  const auto layout = Napi::Object::New(env);
  layout.Set("sizes", sizes);
  layout.Set("offsets", offsets);
  layout.Set("constants", constants);
  return layout;
}

}  // namespace node_kvm
