// The exports, and what the addon keeps per environment.
#include "census.h"
#include "handle.h"
#include "objects.h"

namespace node_kvm {

namespace {

Napi::Value census_object(const Napi::CallbackInfo& info) {
  const auto result = Napi::Object::New(info.Env());
  result.Set("files", census.files.load());
  result.Set("mappings", census.mappings.load());
  result.Set("threads", census.threads.load());
  return result;
}

template <Napi::Value (*Body)(const Napi::CallbackInfo&)>
void export_function(Napi::Object exports, const char* name) {
  napi_value function = nullptr;
  napi_create_function(exports.Env(), name, NAPI_AUTO_LENGTH, function_callback<Body>, nullptr, &function);
  exports.Set(name, Napi::Value(exports.Env(), function));
}

void set_up_environment(napi_env env) {
  auto data = std::make_unique<std::shared_ptr<Environment>>(std::make_shared<Environment>(env));
  Environment& environment = **data;
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Environment>*>(data); };
  if (napi_set_instance_data(env, data.get(), finalize, nullptr) != napi_ok) {
    throw StateError("ERR_KVM_STATE", "The environment could not be set up");
  }
  data.release();
  napi_add_env_cleanup_hook(
      env, [](void* data) { static_cast<Environment*>(data)->tear_down(); }, &environment);
  define_system(environment);
  define_vm(environment);
  define_vcpu(environment);
  define_guest_memfd(environment);
  define_host_file(environment);
  define_device(environment);
  define_readable(environment);
  define_eventfd(environment);
  define_mapping(environment);
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  try {
    set_up_environment(env);
    exports.Set("layout", make_layout(env));
    export_function<open_system>(exports, "openSystem");
    export_function<system_from_fd>(exports, "systemFromFd");
    export_function<create_eventfd>(exports, "createEventfd");
    export_function<create_memfd>(exports, "createMemfd");
    export_function<open_file>(exports, "openFile");
    export_function<map_anonymous>(exports, "mapAnonymous");
    export_function<map_file>(exports, "mapFile");
    exports.Set("runVcpu", Napi::Value(env, run_vcpu_function(*Environment::of(env))));
    export_function<adopt_vm>(exports, "adoptVm");
    export_function<adopt_vcpu>(exports, "adoptVcpu");
    export_function<adopt_mapping>(exports, "adoptMapping");
    export_function<adopt_eventfd>(exports, "adoptEventfd");
    export_function<census_object>(exports, "census");
  } catch (...) {
    raise(env);
  }
  return exports;
}

NODE_API_MODULE(node_kvm, initialize)

}  // namespace

}  // namespace node_kvm
