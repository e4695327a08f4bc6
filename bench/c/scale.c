// scale: the time for N of something, of which what follows is not counted: taking them away again.
// "vcpus N", "vms N"; "memslots N": slots of 4 KiB, all over the same memory; "guest-memfd N": one of N GiB, bound.
#include "memory.h"

enum { MAX = 16384 };
static int fds[MAX];

static uint64_t vcpus(const uint64_t *numbers) {
  const int vm = new_vm(DEFAULT_VM);
  const uint64_t n = numbers[0];
  void *runs[MAX_VCPUS];
  const size_t size = (size_t)bench_check(ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  const uint64_t start = bench_now();
  for (uint64_t id = 0; id < n; id++) {
    fds[id] = (int)bench_check(ioctl(vm, KVM_CREATE_VCPU, id), "KVM_CREATE_VCPU");
    runs[id] = bench_map_run(kvm_fd, fds[id]);
  }
  const uint64_t time = bench_now() - start;
  for (uint64_t id = 0; id < n; id++) {
    munmap(runs[id], size);
    close(fds[id]);
  }
  close(vm);
  return time;
}

static uint64_t memslots(const uint64_t *numbers) {
  const int vm = new_vm(DEFAULT_VM);
  uint8_t *const memory = anonymous(numbers[0] * 4096);
  const uint64_t start = bench_now();
  for (uint64_t slot = 0; slot < numbers[0]; slot++) {
    set_slot(vm, (uint32_t)slot, slot * 4096, 4096, memory + slot * 4096, -1, 0);
  }
  const uint64_t time = bench_now() - start;
  close(vm);
  munmap(memory, numbers[0] * 4096);
  return time;
}

static uint64_t vms(const uint64_t *numbers) {
  const uint64_t start = bench_now();
  for (uint64_t i = 0; i < numbers[0]; i++) fds[i] = new_vm(DEFAULT_VM);
  const uint64_t time = bench_now() - start;
  for (uint64_t i = 0; i < numbers[0]; i++) close(fds[i]);
  return time;
}

static uint64_t guest_memfd(const uint64_t *numbers) {
  const uint64_t size = numbers[0] << 30;
  const int type = (int)numbers[1];
  const int vm = new_vm(type);
  const uint64_t start = bench_now();
  const int fd = new_guest_memfd(vm, size, type == DEFAULT_VM ? MAPPED_GUEST_MEMFD : 0);
  void *const memory = type == DEFAULT_VM
                           ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                           : mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) bench_check(-1, "mmap");
  set_slot(vm, 0, 0, size, memory, fd, 0);
  const uint64_t time = bench_now() - start;
  close(vm);
  close(fd);
  munmap(memory, size);
  return time;
}

int main(void) {
  return bench_serve((const struct bench_command[]){
      {"vcpus", vcpus}, {"memslots", memslots}, {"vms", vms}, {"guest-memfd", guest_memfd}, {NULL, NULL}});
}
