// Carries the command's streams until it ends, then says how it ended.
#include "init.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

// The host keeps at most this much stdin on its way (lib/lab/frames.ts), so a command that does not read its stdin
// never stops the port for window sizes and signals.
#define INPUT_WINDOW (256 * 1024)
// What a pipe can still hold when the command has ended; a background process that goes on writing is not waited for.
#define LAST_OUTPUT (1024 * 1024)

static unsigned char input[INPUT_WINDOW];
static size_t input_start, input_end;
static bool input_ended;
static unsigned char buffer[FRAME_MAX];

static void acknowledge(size_t bytes) {
  unsigned char text[4];
  for (int i = 0; i < 4; i++) text[i] = (unsigned char)(bytes >> (8 * i));
  if (bytes > 0) port_send(FRAME_TAKEN, text, sizeof text);
}

static void close_input(const struct spec *spec, struct command *command) {
  if (!spec->terminal && command->input >= 0) close(command->input);
  command->input = -1;
}

static void pass_input(const struct spec *spec, struct command *command) {
  size_t before = input_start;
  while (command->input >= 0 && input_start < input_end) {
    ssize_t written = write(command->input, input + input_start, input_end - input_start);
    if (written > 0) input_start += (size_t)written;
    else if (written < 0 && errno == EINTR) continue;
    else if (written < 0 && errno == EAGAIN) break;
    else close_input(spec, command);
  }
  // Nobody reads it any more: taken all the same, so that the host does not wait.
  if (command->input < 0) input_start = input_end;
  acknowledge(input_start - before);
  if (input_start == input_end) {
    input_start = input_end = 0;
    if (input_ended) close_input(spec, command);
  }
}

static void keep_input(const unsigned char *data, size_t length) {
  if (length == 0) input_ended = true;
  if (input_start > 0) {
    memmove(input, input + input_start, input_end - input_start);
    input_end -= input_start;
    input_start = 0;
  }
  if (length > sizeof input - input_end) fail("the host sent more stdin than it may");
  memcpy(input + input_end, data, length);
  input_end += length;
}

static void take_frame(const struct spec *spec, struct command *command) {
  char type = 0;
  size_t length = (size_t)port_receive(&type, buffer, sizeof buffer);
  if (type == FRAME_INPUT) {
    keep_input(buffer, length);
    pass_input(spec, command);
  } else if (type == FRAME_WINDOW && length == 4 && spec->terminal) {
    struct winsize size = {.ws_row = (unsigned short)(buffer[0] | buffer[1] << 8),
                           .ws_col = (unsigned short)(buffer[2] | buffer[3] << 8)};
    ioctl(command->output, TIOCSWINSZ, &size);
  } else if (type == FRAME_SIGNAL && length == 1) {
    kill(-command->pid, buffer[0]);
  } else {
    fail("a frame of type '%c' and %zu bytes makes no sense here", type, length);
  }
}

// Gives the bytes passed on; 0: nothing there now. Closes the descriptor at its end.
static size_t pass_output(int *fd, char type) {
  if (*fd < 0) return 0;
  ssize_t got = read(*fd, buffer, sizeof buffer);
  if (got > 0) {
    port_send(type, buffer, (size_t)got);
    return (size_t)got;
  }
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  // A terminal whose last process has gone gives EIO.
  close(*fd);
  *fd = -1;
  return 0;
}

static bool reap(const struct command *command, int *status) {
  bool ended = false;
  int one;
  for (pid_t pid; (pid = waitpid(-1, &one, WNOHANG)) > 0;) {
    if (pid != command->pid) continue;
    ended = true;
    *status = one;
  }
  return ended;
}

static _Noreturn void finish(struct command *command, int status) {
  int *fds[] = {&command->output, &command->error};
  for (int i = 0; i < 2; i++) {
    size_t passed = 0;
    for (size_t now; passed < LAST_OUTPUT && (now = pass_output(fds[i], i == 0 ? FRAME_OUTPUT : FRAME_ERROR)) > 0;) {
      passed += now;
    }
  }
  unsigned char how[2] = {WIFEXITED(status) ? (unsigned char)WEXITSTATUS(status) : 0,
                          WIFSIGNALED(status) ? (unsigned char)WTERMSIG(status) : 0};
  port_send(FRAME_EXIT, how, sizeof how);
  // The host ends the machine as soon as it reads this.
  sleep(5);
  power_off();
}

_Noreturn void relay(const struct spec *spec, struct command *command) {
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, NULL);
  int children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  if (children < 0) fail("cannot make a signalfd: %s", strerror(errno));
  for (;;) {
    int status = 0;
    // Before the poll too: the command may have ended before SIGCHLD was blocked.
    if (reap(command, &status)) finish(command, status);
    bool pending = command->input >= 0 && input_start < input_end;
    struct pollfd items[] = {
        {.fd = children, .events = POLLIN},
        {.fd = port_fd(), .events = POLLIN},
        {.fd = command->output, .events = POLLIN},
        {.fd = command->error, .events = POLLIN},
        {.fd = pending ? command->input : -1, .events = POLLOUT},
    };
    if (poll(items, 5, -1) < 0 && errno != EINTR) fail("poll: %s", strerror(errno));
    if (items[0].revents) {
      struct signalfd_siginfo ignored;
      while (read(children, &ignored, sizeof ignored) > 0) continue;
    }
    if (items[1].revents & POLLHUP) power_off();
    if (items[1].revents & POLLIN) take_frame(spec, command);
    if (items[2].revents) pass_output(&command->output, FRAME_OUTPUT);
    if (spec->terminal && command->output < 0) command->input = -1;
    if (items[3].revents) pass_output(&command->error, FRAME_ERROR);
    if (items[4].revents) pass_input(spec, command);
  }
}
