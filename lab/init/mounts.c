// The host's root, read-only over 9p, under a tmpfs that takes every write; kernel file systems on top.
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/root"

static void must_mount(const char *source, const char *target, const char *type, unsigned long flags,
                       const char *options) {
  if (mount(source, target, type, flags, options) != 0) {
    fail("cannot mount %s (%s) on %s: %s", source, type, target, strerror(errno));
  }
}

// Fails only where the host's root has no such directory, which some minimal roots do not.
static void mount_in_root(const char *source, const char *directory, const char *type, unsigned long flags,
                          const char *options) {
  char target[256];
  snprintf(target, sizeof target, ROOT "%s", directory);
  mkdir(target, 0755);
  must_mount(source, target, type, flags, options);
}

static void write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, text, strlen(text)) < 0) console("lab: cannot write %s\n", path);
  close(fd);
}

void mount_basics(void) {
  mkdir("/dev", 0755);
  mkdir("/proc", 0755);
  mkdir("/sys", 0755);
  mount("dev", "/dev", "devtmpfs", 0, NULL);
  mount("proc", "/proc", "proc", 0, NULL);
  mount("sys", "/sys", "sysfs", 0, NULL);
}

static void loopback_up(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  ioctl(fd, SIOCSIFFLAGS, &request);
  close(fd);
}

static void mount_writable(const struct spec *spec) {
  for (size_t i = 0; i < spec->writable_count; i++) {
    char tag[32], target[4200];
    snprintf(tag, sizeof tag, "writable%zu", i);
    snprintf(target, sizeof target, ROOT "%s", spec->writable[i]);
    // No cache: what the command wrote is on the host when its write returns, however the lab ends.
    must_mount(tag, target, "9p", 0, "trans=virtio,version=9p2000.L,msize=1048576,cache=none,access=any");
  }
}

void mount_root(const struct spec *spec) {
  char options[256];
  mkdir("/host", 0755);
  mkdir("/overlay", 0755);
  mkdir(ROOT, 0755);
  must_mount("root", "/host", "9p", MS_RDONLY, "trans=virtio,version=9p2000.L,msize=1048576,cache=loose,access=any");
  snprintf(options, sizeof options, "mode=0755,size=%s", spec->overlay_size);
  must_mount("overlay", "/overlay", "tmpfs", 0, options);
  mkdir("/overlay/upper", 0755);
  mkdir("/overlay/work", 0755);
  must_mount("root", ROOT, "overlay", 0, "lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work");

  mount_in_root("dev", "/dev", "devtmpfs", 0, NULL);
  mount_in_root("pts", "/dev/pts", "devpts", 0, "gid=5,mode=620,ptmxmode=666");
  mount_in_root("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
  mount_in_root("proc", "/proc", "proc", 0, NULL);
  mount_in_root("sys", "/sys", "sysfs", 0, NULL);
  mount("debug", ROOT "/sys/kernel/debug", "debugfs", 0, NULL);
  // Fewer page faults when a program as big as Node starts: each is dear under emulation.
  write_file(ROOT "/sys/kernel/debug/fault_around_bytes", "1048576");
  // What the host's daemons left there (sockets, pid files) means nothing here.
  mount_in_root("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
  mount_writable(spec);
  if (symlink("/proc/self/fd", ROOT "/dev/fd") == 0) {
    symlink("/proc/self/fd/0", ROOT "/dev/stdin");
    symlink("/proc/self/fd/1", ROOT "/dev/stdout");
    symlink("/proc/self/fd/2", ROOT "/dev/stderr");
  }
  if (spec->huge_pages > 0) {
    char count[32];
    snprintf(count, sizeof count, "%lu", spec->huge_pages);
    write_file("/proc/sys/vm/nr_hugepages", count);
    mount_in_root("huge", "/dev/hugepages", "hugetlbfs", 0, "mode=1777");
  }
  loopback_up();
  sethostname("lab", 3);
  if (chroot(ROOT) != 0 || chdir("/") != 0) fail("cannot enter the root file system: %s", strerror(errno));
}
