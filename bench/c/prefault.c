// prefault SIDE SIZE VCPUS: maps SIZE bytes of fresh memory by KVM_PRE_FAULT_MEMORY with VCPUS vCPUs. "run N" is N times,
// of which only the mapping counts. SIDE: private or shared.
#include "memory.h"

static int vm, guest_memfd;
static uint64_t size;
static uint8_t* memory;
static char side;

static uint64_t run(uint64_t n) {
  uint64_t total = 0;
  for (uint64_t i = 0; i < n; i++) {
    const uint64_t start = now_ns();
    crew_prefault(0, size);
    total += now_ns() - start;
    if (side == 's') expect(madvise(memory, size, MADV_DONTNEED), "madvise");
    else punch(guest_memfd, 0, size);
  }
  return total;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  side = argv[1][0];
  size = strtoull(argv[2], NULL, 0);
  vm = new_vm(SW_PROTECTED_VM);
  guest_memfd = new_guest_memfd(vm, size, 0);
  memory = anonymous(size);
  set_slot(vm, 0, 0, size, memory, guest_memfd, 0);
  if (side == 'p') set_private(vm, 0, size, 1);
  make_crew(vm, atoi(argv[3]));
  return serve(run);
}
