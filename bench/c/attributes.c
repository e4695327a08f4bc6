// attributes SIZE: flips SIZE bytes between private and shared; "run N" is N flips.
#include "memory.h"

static int vm;
static uint64_t size;
static int is_private;

static uint64_t run(const uint64_t *numbers) {
  const uint64_t n = numbers[0];
  const uint64_t start = bench_now();
  for (uint64_t i = 0; i < n; i++) set_private(vm, 0, size, is_private = !is_private);
  return bench_now() - start;
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  size = number(argv[1]);
  vm = new_vm(SW_PROTECTED_VM);
  set_slot(vm, 0, 0, size, anonymous(size), new_guest_memfd(vm, size, 0), 0);
  return bench_serve((const struct bench_command[]){{"run", run}, {NULL, NULL}});
}
