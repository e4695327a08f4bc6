// What the C programs share: the line protocol, the clock, and a guest of a few bytes.
//
// A program reads lines "command n ..." from stdin and answers each with one line of numbers, the first of them the
// nanoseconds that it took. It ends at the end of its input. What fails is said on stderr, and ends it with 1.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BENCH_MAX_NUMBERS 8

static inline uint64_t bench_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/** Ends the program where `result` is -1. */
static inline long bench_check(long result, const char *what) {
  if (result != -1) return result;
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(1);
}

static inline void bench_fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

struct bench_command {
  const char *name;
  /** `numbers` are those after the name, 0 where there are fewer; the result is nanoseconds. */
  uint64_t (*run)(const uint64_t *numbers);
};

static uint64_t bench_extra[BENCH_MAX_NUMBERS];
static int bench_extra_count;

/** From a command: one more number in its answer. */
static inline void bench_also(uint64_t number) {
  if (bench_extra_count < BENCH_MAX_NUMBERS) bench_extra[bench_extra_count++] = number;
}

/** Answers lines until the input ends. `commands` ends with a name that is NULL. */
static inline int bench_serve(const struct bench_command *commands) {
  char line[256];
  while (fgets(line, sizeof line, stdin) != NULL) {
    uint64_t numbers[BENCH_MAX_NUMBERS] = {0};
    char *rest = NULL;
    const char *name = strtok_r(line, " \n", &rest);
    if (name == NULL) continue;
    const char *word;
    for (int i = 0; i < BENCH_MAX_NUMBERS && (word = strtok_r(NULL, " \n", &rest)) != NULL; i++) {
      numbers[i] = strtoull(word, NULL, 0);
    }
    const struct bench_command *command = commands;
    while (command->name != NULL && strcmp(command->name, name) != 0) command++;
    if (command->name == NULL) bench_fail("unknown command");
    bench_extra_count = 0;
    printf("%" PRIu64, command->run(numbers));
    for (int i = 0; i < bench_extra_count; i++) printf(" %" PRIu64, bench_extra[i]);
    printf("\n");
    fflush(stdout);
  }
  return 0;
}

struct bench_guest {
  int kvm, vm, vcpu;
  uint8_t *ram;
  size_t run_size;
  struct kvm_run *run;
};

/** One more vCPU in real mode at 0x1000, segment bases 0. */
static inline int bench_vcpu(int vm, unsigned long id) {
  const int vcpu = (int)bench_check(ioctl(vm, KVM_CREATE_VCPU, id), "KVM_CREATE_VCPU");
  struct kvm_sregs sregs;
  bench_check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  sregs.cs.base = sregs.ds.base = sregs.es.base = 0;
  sregs.cs.selector = sregs.ds.selector = sregs.es.selector = 0;
  bench_check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  const struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
  bench_check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
  return vcpu;
}

static inline struct kvm_run *bench_map_run(int kvm, int vcpu) {
  const size_t size = (size_t)bench_check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  void *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  if (run == MAP_FAILED) bench_check(-1, "mmap of kvm_run");
  return run;
}

/** A VM with 64 KiB at gpa 0, `code` at 0x1000, and vCPU 0. */
static inline struct bench_guest bench_guest_of(const void *code, size_t length) {
  struct bench_guest guest;
  guest.kvm = (int)bench_check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  guest.vm = (int)bench_check(ioctl(guest.kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  guest.ram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (guest.ram == MAP_FAILED) bench_check(-1, "mmap of memory");
  memcpy(guest.ram + 0x1000, code, length);
  const struct kvm_userspace_memory_region region = {
      .slot = 0, .guest_phys_addr = 0, .memory_size = 0x10000, .userspace_addr = (uintptr_t)guest.ram};
  bench_check(ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  guest.vcpu = bench_vcpu(guest.vm, 0);
  guest.run = bench_map_run(guest.kvm, guest.vcpu);
  return guest;
}
