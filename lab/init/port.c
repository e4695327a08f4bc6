// The virtio-serial port and the frames on it. One port carries everything, in order: the exit frame comes after the
// last byte of output because it was written after it.
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char PORT_NAME[] = "org.node-kvm.lab";
static int port = -1;

static bool is_our_port(const char *device) {
  char path[300], name[64] = "";
  snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", device);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t got = read(fd, name, sizeof name - 1);
  close(fd);
  return got > 0 && strncmp(name, PORT_NAME, sizeof PORT_NAME - 1) == 0;
}

static int try_open(void) {
  DIR *ports = opendir("/sys/class/virtio-ports");
  if (ports == NULL) return -1;
  int fd = -1;
  for (struct dirent *entry; fd < 0 && (entry = readdir(ports)) != NULL;) {
    if (entry->d_name[0] == '.' || !is_our_port(entry->d_name)) continue;
    char path[300];
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  }
  closedir(ports);
  return fd;
}

// The driver learns a port's name, and that the host listens on it, from messages that come some time after its probe.
int port_open(void) {
  for (int tries = 0; tries < 20000; tries++) {
    if (port < 0) port = try_open();
    struct pollfd item = {.fd = port, .events = POLLIN};
    if (port >= 0 && poll(&item, 1, 0) >= 0 && !(item.revents & POLLHUP)) return port;
    nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
  }
  return -1;
}

int port_fd(void) {
  return port;
}

static void wait_for(short events) {
  struct pollfd item = {.fd = port, .events = events};
  poll(&item, 1, -1);
  // The host closed its side: nobody is left to tell anything.
  if (item.revents & POLLHUP) power_off();
}

static void send_all(const unsigned char *data, size_t length) {
  while (length > 0) {
    ssize_t sent = write(port, data, length);
    if (sent > 0) {
      data += sent;
      length -= (size_t)sent;
    } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
      power_off();
    } else {
      wait_for(POLLOUT);
    }
  }
}

void port_send(char type, const void *data, size_t length) {
  static unsigned char frame[FRAME_HEADER + FRAME_MAX];
  if (length > FRAME_MAX) length = FRAME_MAX;
  frame[0] = (unsigned char)type;
  for (int i = 0; i < 4; i++) frame[1 + i] = (unsigned char)(length >> (8 * i));
  if (length > 0) memcpy(frame + FRAME_HEADER, data, length);
  send_all(frame, FRAME_HEADER + length);
}

static void receive_all(unsigned char *data, size_t length) {
  while (length > 0) {
    ssize_t got = read(port, data, length);
    if (got > 0) {
      data += got;
      length -= (size_t)got;
    } else if (got < 0 && errno != EAGAIN && errno != EINTR) {
      power_off();
    } else {
      if (got == 0) power_off();
      wait_for(POLLIN);
    }
  }
}

ssize_t port_receive(char *type, unsigned char *data, size_t size) {
  unsigned char header[FRAME_HEADER];
  receive_all(header, sizeof header);
  size_t length = 0;
  for (int i = 0; i < 4; i++) length |= (size_t)header[1 + i] << (8 * i);
  *type = (char)header[0];
  if (length > size) fail("a frame of type '%c' is %zu bytes long, more than %zu", *type, length, size);
  receive_all(data, length);
  return (ssize_t)length;
}

_Noreturn void power_off(void) {
  sync();
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

void console(const char *format, ...) {
  int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return;
  va_list arguments;
  va_start(arguments, format);
  vdprintf(fd, format, arguments);
  va_end(arguments);
  close(fd);
}

_Noreturn void fail(const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (port >= 0) port_send(FRAME_FAILED, text, strlen(text));
  // The host ends the machine once it has read this; power off by ourselves if it does not.
  sleep(5);
  power_off();
}
