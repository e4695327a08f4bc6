// A descriptor to read statistics from.
#include "objects.h"

namespace node_kvm {

namespace {

Napi::Value read(Readable& self, const Napi::CallbackInfo& info) {
  const auto offset = integer_value(info.Env(), info[0], "offset", 0, INT64_C(1) << 53);
  const Bytes into = bytes_at(info, 1, "into");
  ssize_t done;
  do {
    done = ::pread(self.core().fd(), into.data(), into.size(), offset);
  } while (done < 0 && errno == EINTR);
  return Napi::Number::New(info.Env(), static_cast<double>(check(done, "pread")));
}

}  // namespace

void define_readable(Environment& environment) {
  ClassDefinition<Readable, Kind::kReadable>().getter<get_fd<Readable>>("fd").method<read>("read").define(environment);
}

}  // namespace node_kvm
