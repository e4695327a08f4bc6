// punch SIDE SIZE VCPUS: gives SIZE bytes back, all of which the guest has mapped. "run N" is N times, of which only
// the giving back counts. SIDE: private and shared (a sw-protected VM, mapped by VCPUS vCPUs), mapped (a guest_memfd
// that the host maps, of a default VM; allocated, not mapped for the guest).
#include "memory.h"

static int vm, guest_memfd;
static uint64_t size;
static uint8_t *memory;
static char side;

static uint64_t run(const uint64_t *numbers) {
  const uint64_t n = numbers[0];
  uint64_t total = 0;
  for (uint64_t i = 0; i < n; i++) {
    if (side == 'm') {
      bench_check(fallocate(guest_memfd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size), "fallocate");
    } else {
      // Pages of its own, where a read fault would map the one page of zeros.
      if (side == 's') bench_check(madvise(memory, size, MADV_POPULATE_WRITE), "madvise");
      crew_prefault(0, size);
    }
    const uint64_t start = bench_now();
    if (side == 's')
      bench_check(madvise(memory, size, MADV_DONTNEED), "madvise");
    else
      punch(guest_memfd, 0, size);
    total += bench_now() - start;
  }
  return total;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  side = argv[1][0];
  size = number(argv[2]);
  vm = new_vm(side == 'm' ? DEFAULT_VM : SW_PROTECTED_VM);
  guest_memfd = new_guest_memfd(vm, size, side == 'm' ? MAPPED_GUEST_MEMFD : 0);
  if (side == 'm') {
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, guest_memfd, 0);
    if (memory == MAP_FAILED) bench_check(-1, "mmap");
  } else {
    memory = anonymous(size);
  }
  set_slot(vm, 0, 0, size, memory, guest_memfd, 0);
  if (side == 'p') set_private(vm, 0, size, 1);
  if (side != 'm') make_crew(vm, atoi(argv[3]));
  return bench_serve((const struct bench_command[]){{"run", run}, {NULL, NULL}});
}
