// One fault of each kind that the sanitizers are there for. A run without reports says something only where these are
// reported in the same circumstances (scripts/sanitizers.mjs).
#include <node_api.h>
#include <pthread.h>

#include <climits>
#include <cstdlib>

namespace {

constexpr int kTimes = 1000;
int counter = 0;

void* count(void*) {
  for (int i = 0; i < kTimes; i++) counter++;
  return nullptr;
}

napi_value race(napi_env, napi_callback_info) {
  pthread_t other;
  if (::pthread_create(&other, nullptr, count, nullptr) != 0) std::abort();
  count(nullptr);
  ::pthread_join(other, nullptr);
  return nullptr;
}

// Volatile, so that the compiler keeps the faults.
volatile int past_the_end = 16;
volatile int largest = INT_MAX;

napi_value overflow(napi_env, napi_callback_info) {
  // Where the compiler knows the size of an object, the other sanitizer would be first.
  void* volatile hidden = std::malloc(16);
  static_cast<volatile char*>(hidden)[past_the_end] = 1;
  std::free(hidden);
  return nullptr;
}

napi_value undefined(napi_env, napi_callback_info) {
  largest = largest + 1;
  return nullptr;
}

napi_value leak(napi_env, napi_callback_info) {
  static void* volatile lost = nullptr;
  for (int i = 0; i < kTimes; i++) lost = std::malloc(16);
  return nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  const napi_property_descriptor faults[] = {
      {"race", nullptr, race, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"overflow", nullptr, overflow, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"undefined", nullptr, undefined, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"leak", nullptr, leak, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  napi_define_properties(env, exports, sizeof(faults) / sizeof(faults[0]), faults);
  return exports;
}
