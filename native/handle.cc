#include "handle.h"

namespace node_kvm {

namespace {

constexpr napi_type_tag kHandleTag = {0x6e6f64652d6b766dULL, 0x9c3f1e5ad0b74286ULL};

napi_value construct(napi_env env, napi_callback_info raw) noexcept {
  return guarded(env, [&]() -> napi_value {
    const auto environment = Environment::of(env);
    napi_value self = nullptr;
    napi_get_cb_info(env, raw, nullptr, nullptr, &self, nullptr);
    auto handle = std::move(environment->pending);
    if (handle == nullptr) throw ArgumentTypeError("Objects of this class are made by the addon only");
    const auto finalize = [](napi_env, void* data, void*) { delete static_cast<Handle*>(data); };
    if (napi_wrap(env, self, handle.get(), finalize, nullptr, nullptr) != napi_ok) {
      throw ArgumentTypeError("The handle could not be wrapped");
    }
    handle.release();
    napi_type_tag_object(env, self, &kHandleTag);
    return self;
  });
}

}  // namespace

std::shared_ptr<Environment> Environment::of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  if (data == nullptr) throw StateError("ERR_KVM_CLOSED", "The environment is ending");
  return *static_cast<std::shared_ptr<Environment>*>(data);
}

void Environment::tear_down() noexcept {
  ending = true;
  for (Handle* handle : handles) handle->tear_down();
}

Handle::Handle(napi_env env, Kind kind) : environment_(Environment::of(env)), kind_(kind) {
  environment_->handles.insert(this);
}

Handle::~Handle() { environment_->handles.erase(this); }

Napi::Value wrap(napi_env env, std::unique_ptr<Handle> handle) {
  const auto environment = Environment::of(env);
  auto& constructor = environment->constructors[static_cast<std::size_t>(handle->kind())];
  environment->pending = std::move(handle);
  napi_value result = nullptr;
  const napi_status status = napi_new_instance(env, constructor.Value(), 0, nullptr, &result);
  environment->pending.reset();
  if (status != napi_ok) throw StateError("ERR_KVM_STATE", "The handle could not be made");
  return Napi::Value(env, result);
}

Handle& handle_value(napi_env env, napi_value value, const char* name) {
  napi_valuetype type = napi_undefined;
  bool ours = false;
  void* handle = nullptr;
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_object ||
      napi_check_object_type_tag(env, value, &kHandleTag, &ours) != napi_ok || !ours ||
      napi_unwrap(env, value, &handle) != napi_ok) {
    throw_expected(env, "a handle of this addon", name, value);
  }
  return *static_cast<Handle*>(handle);
}

void define_class(Environment& environment, Kind kind, const std::vector<napi_property_descriptor>& members) {
  napi_value constructor = nullptr;
  if (napi_define_class(environment.env, kind_name(kind), NAPI_AUTO_LENGTH, construct, nullptr, members.size(),
                        members.data(), &constructor) != napi_ok) {
    throw StateError("ERR_KVM_STATE", "The class could not be defined");
  }
  environment.constructors[static_cast<std::size_t>(kind)] =
      Napi::Persistent(Napi::Function(environment.env, constructor));
}

}  // namespace node_kvm
