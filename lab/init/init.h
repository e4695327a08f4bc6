// The lab's first process. It mounts the host's root file system, runs one command in it and carries the command's
// streams over a virtio-serial port. lib/lab/frames.ts speaks the other side of the same frames.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// A frame: one byte type, four bytes length (little endian), payload.
enum {
  FRAME_HEADER = 5,
  FRAME_MAX = 64 * 1024,
  SPEC_MAX = 4 * 1024 * 1024,
};

// host to guest
#define FRAME_SPEC 'S'    // what to run, once
#define FRAME_INPUT 'I'   // stdin of the command; empty: end of file
#define FRAME_WINDOW 'W'  // rows and columns, 16 bits each
#define FRAME_SIGNAL 'K'  // a signal number, for the command's process group
// guest to host
#define FRAME_READY 'R'   // mounted, about to run the command
#define FRAME_OUTPUT 'O'  // stdout
#define FRAME_ERROR 'E'   // stderr
#define FRAME_TAKEN 'A'   // so many bytes of stdin have been passed on
#define FRAME_EXIT 'X'    // exit code, signal number (0: none); one byte each
#define FRAME_FAILED 'F'  // text: the lab could not run the command

struct spec {
  char **argv;
  char **env;
  const char *cwd;
  const char *overlay_size;  // of the tmpfs that takes all writes, as mount(8) spells it
  char **writable;           // directories shared with the host for writing, in the order of their 9p tags
  size_t writable_count;
  unsigned long huge_pages;  // of 2 MiB
  bool terminal;
  bool has_input;
  uint16_t rows, columns;
};

struct command {
  pid_t pid;
  int input;   // -1: closed
  int output;  // in terminal mode the terminal's master side, which is the input as well
  int error;   // -1: closed, or terminal mode
};

// port.c
int port_open(void);
int port_fd(void);
void port_send(char type, const void *data, size_t length);
ssize_t port_receive(char *type, unsigned char *data, size_t size);
_Noreturn void power_off(void);
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void console(const char *format, ...) __attribute__((format(printf, 1, 2)));

// spec.c
void spec_parse(struct spec *spec, char *text, size_t length);

// mounts.c
void mount_basics(void);
void mount_root(const struct spec *spec);

// command.c
struct command command_start(const struct spec *spec);

// relay.c
_Noreturn void relay(const struct spec *spec, struct command *command);
