// The owner of a file descriptor.
#pragma once

#include <unistd.h>

#include <utility>

#include "census.h"

namespace node_kvm {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int number) : number_(number) {
    if (number_ >= 0) census.files++;
  }
  Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return number_; }

  void reset() noexcept {
    if (number_ < 0) return;
    // Not retried on EINTR: Linux has freed the number by then.
    ::close(std::exchange(number_, -1));
    census.files--;
  }

 private:
  int number_ = -1;
};

}  // namespace node_kvm
