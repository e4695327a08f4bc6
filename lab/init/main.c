#include "init.h"

#include <signal.h>
#include <stdlib.h>

// Kept for the whole life: the spec's strings point into it.
static unsigned char spec_text[SPEC_MAX];

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  mount_basics();
  if (port_open() < 0) {
    console("lab: no virtio port called org.node-kvm.lab\n");
    power_off();
  }
  char type = 0;
  ssize_t length = port_receive(&type, spec_text, sizeof spec_text);
  if (length < 0 || type != FRAME_SPEC) fail("expected a spec frame first, got type %d", type);
  static struct spec spec;
  spec_parse(&spec, (char *)spec_text, (size_t)length);
  mount_root(&spec);
  port_send(FRAME_READY, NULL, 0);
  struct command command = command_start(&spec);
  relay(&spec, &command);
}
