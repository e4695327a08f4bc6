// prefault SIDE SIZE VCPUS: maps SIZE bytes of fresh memory by KVM_PRE_FAULT_MEMORY with VCPUS vCPUs. "run N" is N
// times, of which only the mapping counts. SIDE: private or shared.
#include "memory.h"

static int vm, guest_memfd;
static uint64_t size;
static uint8_t *memory;
static char side;

static uint64_t run(const uint64_t *numbers) {
  const uint64_t n = numbers[0];
  uint64_t total = 0;
  for (uint64_t i = 0; i < n; i++) {
    const uint64_t start = bench_now();
    crew_prefault(0, size);
    total += bench_now() - start;
    if (side == 's')
      bench_check(madvise(memory, size, MADV_DONTNEED), "madvise");
    else
      punch(guest_memfd, 0, size);
  }
  return total;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  side = argv[1][0];
  size = number(argv[2]);
  vm = new_vm(SW_PROTECTED_VM);
  guest_memfd = new_guest_memfd(vm, size, 0);
  memory = anonymous(size);
  set_slot(vm, 0, 0, size, memory, guest_memfd, 0);
  if (side == 'p') set_private(vm, 0, size, 1);
  make_crew(vm, atoi(argv[3]));
  return bench_serve((const struct bench_command[]){{"run", run}, {NULL, NULL}});
}
