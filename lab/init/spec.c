// The spec: NUL-terminated strings, the first byte of each says what it is. No quoting, no escapes.
#include "init.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct list {
  char **items;
  size_t count;
};

// Room for as many strings as the text can hold, and the NULL that execve wants.
static struct list list_of(size_t most) {
  return (struct list){.items = calloc(most + 1, sizeof(char *))};
}

void spec_parse(struct spec *spec, char *text, size_t length) {
  if (length == 0 || text[length - 1] != '\0') fail("the spec does not end in a NUL");
  size_t most = 0;
  for (size_t i = 0; i < length; i++) most += text[i] == '\0';
  struct list argv = list_of(most), env = list_of(most), writable = list_of(most);
  *spec = (struct spec){.cwd = "/", .overlay_size = "50%", .rows = 24, .columns = 80};
  for (char *item = text; item < text + length; item += strlen(item) + 1) {
    char *value = item + 1;
    switch (item[0]) {
      case 'a': argv.items[argv.count++] = value; break;
      case 'e': env.items[env.count++] = value; break;
      case 'c': spec->cwd = value; break;
      case 'w': writable.items[writable.count++] = value; break;
      case 'o': spec->overlay_size = value; break;
      case 'h': spec->huge_pages = strtoul(value, NULL, 10); break;
      case 'i': spec->has_input = true; break;
      case 't':
        spec->terminal = true;
        sscanf(value, "%hux%hu", &spec->rows, &spec->columns);
        break;
      default: fail("the spec has an item of unknown type '%c'", item[0]);
    }
  }
  if (argv.count == 0) fail("the spec names no command");
  spec->argv = argv.items;
  spec->env = env.items;
  spec->writable = writable.items;
  spec->writable_count = writable.count;
}
