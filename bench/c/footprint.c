// footprint: "private SIZE" and "mapped SIZE" make a VM whose guest writes to every page of SIZE bytes of guest_memfd.
// The answer: nanoseconds, then kB of resident memory, of page tables, and of KVM's tables, more than before.
#include "memory.h"

enum { CODE = 0x1000, RANGE = 0x10000000 };

static uint64_t kib(const char *path, const char *name) {
  char line[256];
  uint64_t found = 0;
  FILE *const file = fopen(path, "re");
  if (file == NULL) bench_check(-1, path);
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, name, strlen(name)) == 0) sscanf(line + strlen(name), ": %" SCNu64, &found);
  }
  fclose(file);
  return found;
}

static uint64_t touch(uint64_t size, int type) {
  const uint64_t rss = kib("/proc/self/status", "VmRSS"), tables = kib("/proc/self/status", "VmPTE");
  const uint64_t kvm_tables = kib("/proc/meminfo", "SecPageTables");
  const uint64_t start = bench_now();
  const int vm = new_vm(type);
  uint8_t *const low = anonymous(0x10000);
  // mov ebx, RANGE; mov ecx, pages; next: mov byte [ebx], 1; add ebx, 4096; dec ecx; jnz next; hlt
  const uint32_t range = RANGE, pages = (uint32_t)(size / 4096);
  memcpy(low + CODE, "\xbb....\xb9....\xc6\x03\x01\x81\xc3\x00\x10\x00\x00\x49\x75\xf4\xf4", 23);
  memcpy(low + CODE + 1, &range, 4);
  memcpy(low + CODE + 6, &pages, 4);
  set_slot(vm, 0, 0, 0x10000, low, -1, 0);
  const int fd = new_guest_memfd(vm, size, type == DEFAULT_VM ? MAPPED_GUEST_MEMFD : 0);
  void *const memory =
      type == DEFAULT_VM ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : anonymous(size);
  set_slot(vm, 1, RANGE, size, memory, fd, 0);
  if (type != DEFAULT_VM) set_private(vm, RANGE, size, 1);
  const int vcpu = (int)bench_check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  struct kvm_run *const run = bench_map_run(kvm_fd, vcpu);
  start_flat(vcpu, CODE);
  bench_check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
  if (run->exit_reason != KVM_EXIT_HLT) bench_fail("the guest did not end with hlt");
  const uint64_t time = bench_now() - start;
  bench_also(kib("/proc/self/status", "VmRSS") - rss);
  bench_also(kib("/proc/self/status", "VmPTE") - tables);
  bench_also(kib("/proc/meminfo", "SecPageTables") - kvm_tables);
  return time;
}

static uint64_t private_side(const uint64_t *numbers) { return touch(numbers[0], SW_PROTECTED_VM); }
static uint64_t mapped(const uint64_t *numbers) { return touch(numbers[0], DEFAULT_VM); }

int main(void) {
  return bench_serve((const struct bench_command[]){{"private", private_side}, {"mapped", mapped}, {NULL, NULL}});
}
