// Starts the command, with three pipes or with a terminal.
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

struct ends {
  int parent, child;
};

static struct ends make_pipe(bool child_reads) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) fail("cannot make a pipe: %s", strerror(errno));
  struct ends ends = {.parent = fds[child_reads ? 1 : 0], .child = fds[child_reads ? 0 : 1]};
  fcntl(ends.parent, F_SETFL, O_NONBLOCK);
  return ends;
}

static struct ends make_terminal(const struct spec *spec) {
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) fail("cannot make a terminal: %s", strerror(errno));
  struct winsize size = {.ws_row = spec->rows, .ws_col = spec->columns};
  ioctl(master, TIOCSWINSZ, &size);
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) fail("cannot open the terminal: %s", strerror(errno));
  fcntl(master, F_SETFL, O_NONBLOCK);
  return (struct ends){.parent = master, .child = slave};
}

// In the child. What goes wrong here goes to the command's stderr, with a shell's exit codes.
static _Noreturn void become(const struct spec *spec, int input, int output, int error) {
  setsid();
  if (spec->terminal) ioctl(input, TIOCSCTTY, 0);
  dup2(input, 0);
  dup2(output, 1);
  dup2(error, 2);
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  // Guest memory is locked memory in some modes, and a handle is a descriptor: as generous as a developer's machine.
  setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
  setrlimit(RLIMIT_NOFILE, &(struct rlimit){65536, 1048576});
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, RLIM_INFINITY});
  if (chdir(spec->cwd) != 0) {
    fprintf(stderr, "lab: cannot enter %s: %s\n", spec->cwd, strerror(errno));
    _exit(126);
  }
  environ = spec->env;
  execvp(spec->argv[0], spec->argv);
  int code = errno == ENOENT ? 127 : 126;
  fprintf(stderr, "lab: cannot run %s: %s\n", spec->argv[0], strerror(errno));
  _exit(code);
}

struct command command_start(const struct spec *spec) {
  struct ends input = {-1, -1}, output = {-1, -1}, error = {-1, -1};
  if (spec->terminal) {
    input = output = make_terminal(spec);
    error.child = input.child;
  } else {
    output = make_pipe(false);
    error = make_pipe(false);
    if (spec->has_input) input = make_pipe(true);
    else input.child = open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  pid_t pid = fork();
  if (pid < 0) fail("cannot fork: %s", strerror(errno));
  if (pid == 0) become(spec, input.child, output.child, error.child);
  close(input.child);
  if (!spec->terminal) {
    close(output.child);
    close(error.child);
  }
  return (struct command){.pid = pid, .input = input.parent, .output = output.parent, .error = error.parent};
}
