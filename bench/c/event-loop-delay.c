// Three vCPU threads, all of them in C: two spin, the third makes exits at a steady rate. Node's event loop in the
// other process has nothing to do with them but the CPUs, so its delay then is what the machine makes of that many
// threads.
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "common.h"
#include "exit-guests.h"

static atomic_bool stop;
static uint64_t rate;
static int vcpus[3];
static struct kvm_run *runs[3];

static void *spin(void *number) {
  const intptr_t id = (intptr_t)number;
  while (!atomic_load(&stop)) {
    if (ioctl(vcpus[id], KVM_RUN, 0) == -1 && errno != EINTR) bench_fail("KVM_RUN");
  }
  return NULL;
}

/** The answer to the guest's read says how long it is to count before it reads again. */
static void *pace(void *exits) {
  struct kvm_run *const run = runs[2];
  const uint64_t start = bench_now();
  uint64_t count = 0;
  uint32_t loops = 1;
  while (!atomic_load(&stop)) {
    if (ioctl(vcpus[2], KVM_RUN, 0) == -1) continue;
    count++;
    const int64_t ahead = (int64_t)(start + count * 1000000000u / rate) - (int64_t)bench_now();
    if (ahead > 0 && loops < 0xffff) loops += loops / 16 + 1;
    if (ahead < 0 && loops > 1) loops -= loops / 16 + 1 > loops - 1 ? loops - 1 : loops / 16 + 1;
    const uint16_t answer = (uint16_t)loops;
    memcpy((uint8_t *)run + run->io.data_offset, &answer, sizeof answer);
  }
  *(uint64_t *)exits = count;
  return NULL;
}

/** run MILLISECONDS RATE: the time that it took, and how many exits there were. */
static uint64_t run_all(const uint64_t *numbers) {
  const uint64_t start = bench_now();
  uint64_t exits = 0;
  pthread_t threads[3];
  rate = numbers[1];
  atomic_store(&stop, false);
  for (int i = 0; i < 3; i++) runs[i]->immediate_exit = 0;
  for (intptr_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, spin, (void *)i);
  pthread_create(&threads[2], NULL, pace, &exits);
  const struct timespec time = {.tv_sec = (time_t)(numbers[0] / 1000), .tv_nsec = (long)(numbers[0] % 1000) * 1000000};
  nanosleep(&time, NULL);
  atomic_store(&stop, true);
  for (int i = 0; i < 3; i++) {
    runs[i]->immediate_exit = 1;
    pthread_kill(threads[i], SIGUSR1);
  }
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  bench_also(exits);
  return bench_now() - start;
}

static void nothing(int number) { (void)number; }

int main(void) {
  const struct sigaction action = {.sa_handler = nothing};
  sigaction(SIGUSR1, &action, NULL);
  struct bench_guest guest = bench_guest_of(PACED_GUEST, sizeof PACED_GUEST - 1);
  memcpy(guest.ram + 0x2000, "\xeb\xfe", 2);
  for (int i = 0; i < 3; i++) {
    vcpus[i] = i == 2 ? guest.vcpu : bench_vcpu(guest.vm, (unsigned long)i + 1);
    runs[i] = bench_map_run(guest.kvm, vcpus[i]);
    const struct kvm_regs spinning = {.rip = 0x2000, .rflags = 2};
    if (i != 2) bench_check(ioctl(vcpus[i], KVM_SET_REGS, &spinning), "KVM_SET_REGS");
  }
  const struct bench_command commands[] = {{"run", run_all}, {NULL, NULL}};
  return bench_serve(commands);
}
