// What the memory benchmarks share: a VM with its slots, and pre-fault by several threads.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common.h"

// Newer than the headers of some distributions. The numbers are the kernel's own.
#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
struct kvm_userspace_memory_region2 {
  __u32 slot, flags;
  __u64 guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
  __u32 guest_memfd, pad1;
  __u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif
#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1u << 2)
#endif
#ifndef KVM_SET_MEMORY_ATTRIBUTES
struct kvm_memory_attributes {
  __u64 address, size, attributes, flags;
};
#define KVM_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#endif
#ifndef KVM_MEMORY_ATTRIBUTE_PRIVATE
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ull << 3)
#endif
#ifndef KVM_CREATE_GUEST_MEMFD
struct kvm_create_guest_memfd {
  __u64 size, flags, reserved[6];
};
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif
#ifndef KVM_PRE_FAULT_MEMORY
struct kvm_pre_fault_memory {
  __u64 gpa, size, flags, padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

enum { DEFAULT_VM = 0, SW_PROTECTED_VM = 1, MAPPED_GUEST_MEMFD = 3 };

static int kvm_fd = -1;

static uint64_t number(const char *text) { return strtoull(text, NULL, 0); }

static inline int new_vm(int type) {
  if (kvm_fd < 0) kvm_fd = (int)bench_check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  return (int)bench_check(ioctl(kvm_fd, KVM_CREATE_VM, type), "KVM_CREATE_VM");
}

static inline uint8_t *anonymous(size_t size) {
  void *const address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) bench_check(-1, "mmap");
  madvise(address, size, MADV_DONTFORK);
  return address;
}

static inline int new_guest_memfd(int vm, uint64_t size, uint64_t flags) {
  struct kvm_create_guest_memfd create = {.size = size, .flags = flags};
  return (int)bench_check(ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create), "KVM_CREATE_GUEST_MEMFD");
}

/** `guest_memfd`: -1 for none. */
static inline void set_slot(int vm, uint32_t slot, uint64_t gpa, uint64_t size, void *memory, int guest_memfd,
                            uint64_t offset) {
  struct kvm_userspace_memory_region2 region = {
      .slot = slot,
      .flags = guest_memfd < 0 ? 0 : KVM_MEM_GUEST_MEMFD,
      .guest_phys_addr = gpa,
      .memory_size = size,
      .userspace_addr = (uintptr_t)memory,
      .guest_memfd_offset = offset,
      .guest_memfd = (uint32_t)guest_memfd,
  };
  if (ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region) == 0) return;
  struct kvm_userspace_memory_region old = {
      .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)memory};
  if (guest_memfd >= 0) bench_check(-1, "KVM_SET_USER_MEMORY_REGION2");
  bench_check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &old), "KVM_SET_USER_MEMORY_REGION");
}

static inline void set_private(int vm, uint64_t gpa, uint64_t size, int is_private) {
  struct kvm_memory_attributes wanted = {
      .address = gpa, .size = size, .attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0};
  bench_check(ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &wanted), "KVM_SET_MEMORY_ATTRIBUTES");
}

static inline void punch(int guest_memfd, uint64_t offset, uint64_t size) {
  bench_check(fallocate(guest_memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size),
              "fallocate");
}

/** A vCPU in 32-bit code without paging, at `rip`. */
static inline void start_flat(int vcpu, uint64_t rip) {
  struct kvm_sregs sregs;
  bench_check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  struct kvm_segment flat = {.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
  sregs.cs = flat;
  flat.type = 3;
  flat.selector = 16;
  sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat;
  sregs.cr0 |= 1;
  bench_check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = rip, .rflags = 2};
  bench_check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

// Pre-fault by several vCPUs, each on its own thread; they take chunks of 32 MiB until there are none.
enum { MAX_VCPUS = 64 };
static struct {
  int vcpus[MAX_VCPUS];
  int count;
  uint64_t end;
  _Atomic uint64_t next;
  pthread_barrier_t begin, done;
} crew;

static inline void prefault_range(int vcpu, uint64_t gpa, uint64_t size) {
  struct kvm_pre_fault_memory range = {.gpa = gpa, .size = size};
  while (range.size > 0) {
    if (ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range) < 0 && errno != EINTR && errno != EAGAIN)
      bench_check(-1, "KVM_PRE_FAULT_MEMORY");
  }
}

static void *crew_member(void *vcpu) {
  for (;;) {
    pthread_barrier_wait(&crew.begin);
    for (;;) {
      const uint64_t chunk = 32u << 20;
      const uint64_t from = atomic_fetch_add(&crew.next, chunk);
      if (from >= crew.end) break;
      prefault_range((int)(intptr_t)vcpu, from, crew.end - from < chunk ? crew.end - from : chunk);
    }
    pthread_barrier_wait(&crew.done);
  }
  return NULL;
}

static inline void make_crew(int vm, int count) {
  crew.count = count;
  pthread_barrier_init(&crew.begin, NULL, (unsigned)count + 1);
  pthread_barrier_init(&crew.done, NULL, (unsigned)count + 1);
  for (int id = 0; id < count; id++) {
    crew.vcpus[id] = (int)bench_check(ioctl(vm, KVM_CREATE_VCPU, id), "KVM_CREATE_VCPU");
    pthread_t thread;
    if (pthread_create(&thread, NULL, crew_member, (void *)(intptr_t)crew.vcpus[id]) != 0)
      bench_check(-1, "pthread_create");
    pthread_detach(thread);
  }
}

static inline void crew_prefault(uint64_t gpa, uint64_t size) {
  crew.next = gpa;
  crew.end = gpa + size;
  pthread_barrier_wait(&crew.begin);
  pthread_barrier_wait(&crew.done);
}
