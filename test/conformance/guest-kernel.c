// What node-kvm has no words for, or refuses itself, asked of the kernel: arguments that are wrong, and files that
// outlive their VM. Run as `guest-kernel <question> [VM type]`; prints one JSON object. Built by guest-kernel.ts.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

// Not in the headers of every distribution. The numbers that the ioctls get from these sizes are the kernel's.
typedef unsigned long long u64;
struct attributes {
  u64 address, size, attributes, flags;
};
struct range {
  u64 gpa, size, flags, padding[5];
};
struct guest_memfd_arguments {
  u64 size, flags, reserved[6];
};
#define SET_ATTRIBUTES _IOW(KVMIO, 0xd2, struct attributes)
#define CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct guest_memfd_arguments)
#define PRE_FAULT _IOWR(KVMIO, 0xd5, struct range)

#define PAGE 4096ull
#define AT (4ull << 30)
#define PRIVATE 8ull
#define SIZE (4 * PAGE)

static int need(int result, const char *what) {
  if (result >= 0) return result;
  perror(what);
  exit(1);
}

/** The errno's name, or "success". */
static const char *name(int result) { return result >= 0 ? "success" : strerrorname_np(errno); }

static const char *set(int vm, u64 address, u64 size, u64 attributes, u64 flags) {
  struct attributes wanted = {.address = address, .size = size, .attributes = attributes, .flags = flags};
  return name(ioctl(vm, SET_ATTRIBUTES, &wanted));
}

/** What all bits but one give, or "mixed". */
static const char *bits_but(int vm, u64 one, int as_flags) {
  const char *all = NULL;
  for (int bit = 0; bit < 64; bit++) {
    const u64 value = 1ull << bit;
    if (value == one) continue;
    const char *const each = as_flags ? set(vm, AT, PAGE, 0, value) : set(vm, AT, PAGE, value, 0);
    if (all != NULL && strcmp(all, each) != 0) return "mixed";
    all = each;
  }
  return all;
}

static void attributes(int vm) {
  printf("{\"none\":\"%s\",\"private\":\"%s\"", set(vm, AT, PAGE, 0, 0), set(vm, AT, PAGE, PRIVATE, 0));
  printf(",\"otherBits\":\"%s\",\"flags\":\"%s\"", bits_but(vm, PRIVATE, 0), bits_but(vm, 0, 1));
  printf(",\"noSize\":\"%s\",\"oddAddress\":\"%s\"", set(vm, AT, 0, 0, 0), set(vm, AT + 1, PAGE, 0, 0));
  printf(",\"oddSize\":\"%s\",\"wrap\":\"%s\"}\n", set(vm, AT, PAGE + 1, 0, 0), set(vm, AT, 0 - PAGE, 0, 0));
}

static const char *prefault(int vcpu, u64 gpa, u64 size, u64 flags) {
  struct range wanted = {.gpa = gpa, .size = size, .flags = flags};
  const char *const result = name(ioctl(vcpu, PRE_FAULT, &wanted));
  return wanted.size == size && wanted.gpa == gpa ? result : "changed";
}

static void prefaults(int vm) {
  const int vcpu = need(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  const char *flags = NULL;
  for (int bit = 0; bit < 64; bit++) {
    const char *const each = prefault(vcpu, AT, PAGE, 1ull << bit);
    if (flags == NULL) flags = each;
    if (strcmp(flags, each) != 0) flags = "mixed";
  }
  printf("{\"flags\":\"%s\",\"oddAddress\":\"%s\"", flags, prefault(vcpu, AT + 1, PAGE, 0));
  printf(",\"oddSize\":\"%s\",\"noSize\":\"%s\"", prefault(vcpu, AT, PAGE - 1, 0), prefault(vcpu, AT, 0, 0));
  printf(",\"wrap\":\"%s\"}\n", prefault(vcpu, AT, 0 - PAGE, 0));
}

/** Closes all of the VM but the file. */
static void lifetime(int kvm, int vm) {
  struct guest_memfd_arguments wanted = {.size = SIZE};
  const int file = need(ioctl(vm, CREATE_GUEST_MEMFD, &wanted), "KVM_CREATE_GUEST_MEMFD");
  const int vcpu = need(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  need(fallocate(file, FALLOC_FL_KEEP_SIZE, 0, SIZE), "fallocate");
  close(vcpu);
  close(vm);
  close(kvm);
  const char *const punch = name(fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, SIZE));
  const char *const allocate = name(fallocate(file, FALLOC_FL_KEEP_SIZE, 0, SIZE));
  printf("{\"punch\":\"%s\",\"allocate\":\"%s\",\"close\":\"%s\"}\n", punch, allocate, name(close(file)));
}

int main(int count, char **arguments) {
  const char *const question = count > 1 ? arguments[1] : "";
  const int kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  const int vm = need(ioctl(kvm, KVM_CREATE_VM, count > 2 ? strtoul(arguments[2], NULL, 0) : 0ul), "KVM_CREATE_VM");
  if (strcmp(question, "attributes") == 0) attributes(vm);
  else if (strcmp(question, "prefault") == 0) prefaults(vm);
  else if (strcmp(question, "lifetime") == 0) lifetime(kvm, vm);
  else return 2;
  return 0;
}
