// Exits that a vCPU thread hands to the main thread, which handles them and orders the next run.
//
// `eventfd`: as a program with an event loop does it: the vCPU thread writes an eventfd which the epoll of the main
// thread reads, and waits at another one for its next order. `futex`: the main thread has nothing else to wait for.
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "common.h"
#include "exit-guests.h"

static struct bench_guest guest;
static uint64_t sum;

static void handle(void) {
  struct kvm_run *const run = guest.run;
  if (run->exit_reason != KVM_EXIT_IO || run->io.port != 0x10) bench_fail("unexpected exit");
  uint8_t *const data = (uint8_t *)run + run->io.data_offset;
  if (run->io.direction == KVM_EXIT_IO_IN) {
    data[0] = 1;
  } else {
    sum += data[0];
  }
}

static int order_fd, done_fd, epoll_fd;

static void *eventfd_vcpu(void *unused) {
  for (;;) {
    uint64_t orders;
    if (read(order_fd, &orders, sizeof orders) != sizeof orders) bench_fail("read");
    bench_check(ioctl(guest.vcpu, KVM_RUN, 0), "KVM_RUN");
    const uint64_t one = 1;
    if (write(done_fd, &one, sizeof one) != sizeof one) bench_fail("write");
  }
  return unused;
}

static void eventfd_exit(void) {
  uint64_t number = 1;
  if (write(order_fd, &number, sizeof number) != sizeof number) bench_fail("write");
  struct epoll_event event;
  while (epoll_wait(epoll_fd, &event, 1, -1) != 1 || event.data.fd != done_fd) {
  }
  if (read(done_fd, &number, sizeof number) != sizeof number) bench_fail("read");
  handle();
}

static _Atomic uint32_t turn;

static void futex_wait(uint32_t value) { syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0); }
static void hand_over(uint32_t to) {
  atomic_store(&turn, to);
  syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void *futex_vcpu(void *unused) {
  for (;;) {
    while (atomic_load(&turn) != 1) futex_wait(0);
    bench_check(ioctl(guest.vcpu, KVM_RUN, 0), "KVM_RUN");
    hand_over(0);
  }
  return unused;
}

static void futex_exit(void) {
  hand_over(1);
  while (atomic_load(&turn) != 0) futex_wait(1);
  handle();
}

static int ascending(const void *left, const void *right) {
  const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
  return (a > b) - (a < b);
}

/** n exits; the time of all, and the 99th percentile of one. */
static uint64_t measure(uint64_t count, void (*exit_once)(void)) {
  uint64_t *const times = calloc(count, sizeof *times);
  if (times == NULL) bench_fail("out of memory");
  const uint64_t start = bench_now();
  uint64_t last = start;
  for (uint64_t i = 0; i < count; i++) {
    exit_once();
    const uint64_t now = bench_now();
    times[i] = now - last;
    last = now;
  }
  qsort(times, count, sizeof *times, ascending);
  bench_also(times[count * 99 / 100]);
  free(times);
  return last - start;
}

static uint64_t run_eventfd(const uint64_t *numbers) { return measure(numbers[0], eventfd_exit); }
static uint64_t run_futex(const uint64_t *numbers) { return measure(numbers[0], futex_exit); }

int main(int argc, char **argv) {
  guest = bench_guest_of(PIO_GUEST, sizeof PIO_GUEST - 1);
  const bool futex = argc > 1 && strcmp(argv[1], "futex") == 0;
  order_fd = (int)bench_check(eventfd(0, EFD_CLOEXEC), "eventfd");
  done_fd = (int)bench_check(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
  epoll_fd = (int)bench_check(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  struct epoll_event event = {.events = EPOLLIN, .data.fd = done_fd};
  bench_check(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, done_fd, &event), "epoll_ctl");
  pthread_t thread;
  if (pthread_create(&thread, NULL, futex ? futex_vcpu : eventfd_vcpu, NULL) != 0) bench_fail("pthread_create");
  const struct bench_command commands[] = {{"eventfd", run_eventfd}, {"futex", run_futex}, {NULL, NULL}};
  return bench_serve(commands);
}
