// Exits handled where they arrive: the loop around KVM_RUN that every monitor in C has.
#include "common.h"

#include "exit-guests.h"

static uint64_t sum;

static uint64_t handle(const struct bench_guest *guest, uint64_t count) {
  struct kvm_run *const run = guest->run;
  const uint64_t start = bench_now();
  for (uint64_t i = 0; i < count; i++) {
    bench_check(ioctl(guest->vcpu, KVM_RUN, 0), "KVM_RUN");
    switch (run->exit_reason) {
      case KVM_EXIT_IO: {
        uint8_t *const data = (uint8_t *)run + run->io.data_offset;
        if (run->io.port != 0x10) bench_fail("unexpected port");
        if (run->io.direction == KVM_EXIT_IO_IN) {
          data[0] = 1;
        } else {
          sum += data[0];
        }
        break;
      }
      case KVM_EXIT_MMIO:
        if (run->mmio.phys_addr != 0x20000) bench_fail("unexpected gpa");
        if (run->mmio.is_write) {
          sum += run->mmio.data[0];
        } else {
          run->mmio.data[0] = 1;
        }
        break;
      default: bench_fail("unexpected exit");
    }
  }
  return bench_now() - start;
}

static struct bench_guest pio, mmio, both;

static uint64_t run_pio(const uint64_t *numbers) { return handle(&pio, numbers[0]); }
static uint64_t run_mmio(const uint64_t *numbers) { return handle(&mmio, numbers[0]); }
static uint64_t run_both(const uint64_t *numbers) { return handle(&both, numbers[0]); }

int main(void) {
  pio = bench_guest_of(PIO_GUEST, sizeof PIO_GUEST - 1);
  mmio = bench_guest_of(MMIO_GUEST, sizeof MMIO_GUEST - 1);
  both = bench_guest_of(BOTH_GUEST, sizeof BOTH_GUEST - 1);
  const struct bench_command commands[] = {{"pio", run_pio}, {"mmio", run_mmio}, {"both", run_both}, {NULL, NULL}};
  return bench_serve(commands);
}
