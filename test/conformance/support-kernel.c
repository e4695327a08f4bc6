// What node-kvm keeps its callers from, asked of the kernel itself: accesses that end a process, descriptors that are no
// guest_memfd. Run as `support-kernel <command> [VM type]`; prints one JSON object. Built by support-kernel.ts.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

// Not in the headers of every distribution. The numbers that the ioctls get from these sizes are the kernel's.
struct guest_memfd_arguments {
  unsigned long long size, flags, reserved[6];
};
struct region_arguments {
  unsigned slot, flags;
  unsigned long long gpa, size, address, offset;
  unsigned guest_memfd, pad1;
  unsigned long long pad2[14];
};
#define CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct guest_memfd_arguments)
#define SET_REGION2 _IOW(KVMIO, 0x49, struct region_arguments)
#define REGION_GUEST_MEMFD 4u
#define MAY_MMAP 1u
#define INIT_SHARED 2u
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define PAGE 4096ul
#define BIG_PAGE (2ul << 20)

static int need(int result, const char *what) {
  if (result >= 0) return result;
  perror(what);
  exit(1);
}

static void *map(size_t length, int fd) {
  void *const at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) need(-1, "mmap");
  return at;
}

static int guest_memfd(int vm, size_t size, unsigned flags) {
  struct guest_memfd_arguments wanted = {.size = size, .flags = flags};
  return need(ioctl(vm, CREATE_GUEST_MEMFD, &wanted), "KVM_CREATE_GUEST_MEMFD");
}

/** The errno's name, or "success". */
static const char *name(int result) { return result >= 0 ? "success" : strerrorname_np(errno); }

/** What becomes of a child that touches memory. */
static const char *touch(volatile char *at, size_t length, int write) {
  fflush(stdout);
  const pid_t child = need(fork(), "fork");
  if (child == 0) {
    for (size_t i = 0; i < length; i++) {
      if (write) at[i] = (char)0xaa;
      else (void)at[i];
    }
    _exit(0);
  }
  int status;
  need(waitpid(child, &status, 0), "waitpid");
  return WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : "nothing";
}

static void past_end(int vm) {
  const size_t size = 4 * PAGE;
  char *const memory = map(4 * size, guest_memfd(vm, size, MAY_MMAP | INIT_SHARED));
  const char *const write = touch(memory, 4 * size, 1);
  const char *const read = touch(memory + size, 1, 0);
  size_t kept = 0;
  while (kept < size && memory[kept] == (char)0xaa) kept++;
  printf("{\"write\":\"%s\",\"read\":\"%s\",\"kept\":%zu}\n", write, read, kept);
}

static void not_shared(int vm) {
  char *const memory = map(PAGE, guest_memfd(vm, PAGE, MAY_MMAP));
  const char *const write = touch(memory, 1, 1);
  printf("{\"write\":\"%s\",\"read\":\"%s\"}\n", write, touch(memory, 1, 0));
}

static void huge(int vm) {
  const int fd = guest_memfd(vm, BIG_PAGE, MAY_MMAP | INIT_SHARED);
  char *const room = mmap(NULL, 2 * BIG_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) need(-1, "mmap");
  char *const aligned = (char *)(((unsigned long)room + BIG_PAGE - 1) & ~(BIG_PAGE - 1));
  char *const memory = mmap(aligned, BIG_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (memory == MAP_FAILED) need(-1, "mmap");
  printf("{\"advise\":\"%s\"", name(madvise(memory, BIG_PAGE, MADV_HUGEPAGE)));
  printf(",\"collapse\":\"%s\"", name(madvise(memory, BIG_PAGE, MADV_COLLAPSE)));
  printf(",\"drop\":\"%s\"", name(madvise(memory, BIG_PAGE, MADV_DONTNEED)));
  printf(",\"read\":\"%s\"}\n", touch(memory, BIG_PAGE, 0));
}

static const char *bind(int vm, int fd, void *memory) {
  struct region_arguments region = {
      .slot = 10,
      .flags = REGION_GUEST_MEMFD,
      .gpa = 3ull << 30,
      .size = BIG_PAGE,
      .address = (unsigned long)memory,
      .guest_memfd = (unsigned)fd,
  };
  return name(ioctl(vm, SET_REGION2, &region));
}

/** `shared`: a kernel that binds a guest_memfd to a default VM wants it to be one that can be mapped. */
static void descriptors(int kvm, int vm, unsigned shared) {
  char *const memory = mmap(NULL, BIG_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const int ordinary = need(memfd_create("ordinary", MFD_CLOEXEC), "memfd_create");
  need(ftruncate(ordinary, BIG_PAGE), "ftruncate");
  printf("{\"system\":\"%s\"", bind(vm, kvm, memory));
  printf(",\"vm\":\"%s\"", bind(vm, vm, memory));
  printf(",\"memfd\":\"%s\"", bind(vm, ordinary, memory));
  const int right = guest_memfd(vm, BIG_PAGE, shared);
  printf(",\"guestMemfd\":\"%s\"}\n", bind(vm, right, shared == 0 ? memory : map(BIG_PAGE, right)));
}

int main(int count, char **arguments) {
  const char *const command = count > 1 ? arguments[1] : "";
  const int kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  const int vm = need(ioctl(kvm, KVM_CREATE_VM, count > 2 ? strtoul(arguments[2], NULL, 0) : 0ul), "KVM_CREATE_VM");
  if (strcmp(command, "past-end") == 0) past_end(vm);
  else if (strcmp(command, "not-shared") == 0) not_shared(vm);
  else if (strcmp(command, "huge") == 0) huge(vm);
  else if (strcmp(command, "descriptors") == 0) descriptors(kvm, vm, 0);
  else if (strcmp(command, "descriptors-shared") == 0) descriptors(kvm, vm, MAY_MMAP | INIT_SHARED);
  else return 2;
  return 0;
}
