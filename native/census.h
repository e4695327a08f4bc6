// What the addon holds in this process, counted where it is taken and given back. For leak tests.
#pragma once

#include <atomic>

namespace node_kvm {

struct Census {
  std::atomic<int> files{0};
  std::atomic<int> mappings{0};
  std::atomic<int> threads{0};
};

inline Census census;

}  // namespace node_kvm
