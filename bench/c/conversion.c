// conversion SIZE TOUCH: the guest asks by KVM_HC_MAP_GPA_RANGE for SIZE bytes to be private, writes to the first TOUCH
// of its pages, asks for them to be shared, writes again, and so on; the host sets the attribute, discards the side
// left behind and lets the guest go on. "run N" is N such requests.
#include "memory.h"

enum { CODE = 0x1000, RANGE = 0x10000000 };

static int vm, vcpu, guest_memfd;
static struct kvm_run *run_page;
static uint8_t *memory;

static uint64_t run(const uint64_t *numbers) {
  const uint64_t n = numbers[0];
  const uint64_t start = bench_now();
  for (uint64_t i = 0; i < n; i++) {
    bench_check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
    if (run_page->exit_reason != KVM_EXIT_HYPERCALL || run_page->hypercall.nr != 12) {
      fprintf(stderr, "exit reason %u\n", run_page->exit_reason);
      exit(1);
    }
    const uint64_t gpa = run_page->hypercall.args[0], size = run_page->hypercall.args[1] * 4096;
    const int to_private = (run_page->hypercall.args[2] & 16) != 0;
    set_private(vm, gpa, size, to_private);
    if (to_private)
      bench_check(madvise(memory + gpa - RANGE, size, MADV_DONTNEED), "madvise");
    else
      punch(guest_memfd, gpa - RANGE, size);
    run_page->hypercall.ret = 0;
  }
  return bench_now() - start;
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t length, uint32_t word) {
  memcpy(at, bytes, length);
  memcpy(at + length, &word, 4);
  return at + length + 4;
}

static uint8_t *request(uint8_t *at, uint32_t pages, uint32_t attributes, uint32_t touch) {
  at = put(at, "\xb8", 1, 12);          // mov eax, KVM_HC_MAP_GPA_RANGE
  at = put(at, "\xbb", 1, RANGE);       // mov ebx, gpa
  at = put(at, "\xb9", 1, pages);       // mov ecx, pages
  at = put(at, "\xba", 1, attributes);  // mov edx, attributes
  memcpy(at, "\x0f\x01\xd9", 3);        // vmmcall
  at += 3;
  at = put(at, "\xb9", 1, touch);  // mov ecx, touch
  // next: mov byte [ebx], 1; add ebx, 4096; dec ecx; jnz next
  memcpy(at, "\xc6\x03\x01\x81\xc3\x00\x10\x00\x00\x49\x75\xf4", 12);
  return at + 12;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  const uint64_t size = number(argv[1]);
  const uint32_t touch = (uint32_t)number(argv[2]);
  vm = new_vm(SW_PROTECTED_VM);
  struct kvm_enable_cap cap = {.cap = KVM_CAP_EXIT_HYPERCALL, .args = {1 << 12}};
  bench_check(ioctl(vm, KVM_ENABLE_CAP, &cap), "KVM_CAP_EXIT_HYPERCALL");
  uint8_t *const low = anonymous(0x10000);
  uint8_t *at = request(low + CODE, (uint32_t)(size / 4096), 16, touch);
  at = request(at, (uint32_t)(size / 4096), 0, touch);
  put(at, "\xe9", 1, (uint32_t)(low + CODE - (at + 5)));  // jmp to the start
  set_slot(vm, 0, 0, 0x10000, low, -1, 0);
  memory = anonymous(size);
  guest_memfd = new_guest_memfd(vm, size, 0);
  set_slot(vm, 1, RANGE, size, memory, guest_memfd, 0);
  vcpu = (int)bench_check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  run_page = bench_map_run(kvm_fd, vcpu);
  start_flat(vcpu, CODE);
  return bench_serve((const struct bench_command[]){{"run", run}, {NULL, NULL}});
}
