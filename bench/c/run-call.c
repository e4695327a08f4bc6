// KVM_RUN with immediate_exit: what entering the kernel and coming back costs.
#include "common.h"

static struct bench_guest guest;

static uint64_t run(const uint64_t *numbers) {
  const uint64_t start = bench_now();
  for (uint64_t i = 0; i < numbers[0]; i++) {
    guest.run->immediate_exit = 1;
    if (ioctl(guest.vcpu, KVM_RUN, 0) != -1 || errno != EINTR) bench_fail("KVM_RUN did not end with EINTR");
    guest.run->immediate_exit = 0;
  }
  return bench_now() - start;
}

int main(void) {
  guest = bench_guest_of("\xeb\xfe", 2);
  const struct bench_command commands[] = {{"run", run}, {NULL, NULL}};
  return bench_serve(commands);
}
