// memory-copy SIZE: memcpy of SIZE bytes between a buffer and memory of 64 MiB. "hot N": from the same place N times;
// "walk N": from one place after the other, so that what is copied is in no cache of the processor that is smaller;
// "hot-write N", "walk-write N": to such places.
#include <stdlib.h>

#include "memory.h"

enum { MEMORY = 64 << 20 };

static uint64_t size;
static uint8_t *memory, *buffer;

static uint64_t copies(uint64_t n, uint64_t step, int write) {
  uint64_t at = 0;
  const uint64_t start = bench_now();
  for (uint64_t i = 0; i < n; i++) {
    if (write) {
      memcpy(memory + at, buffer, size);
    } else {
      memcpy(buffer, memory + at, size);
    }
    __asm__ volatile("" ::"r"(buffer), "r"(memory) : "memory");
    at = (at + step) % MEMORY;
  }
  return bench_now() - start;
}

static uint64_t hot(const uint64_t *numbers) { return copies(numbers[0], 0, 0); }
static uint64_t hot_write(const uint64_t *numbers) { return copies(numbers[0], 0, 1); }
static uint64_t walk(const uint64_t *numbers) { return copies(numbers[0], size, 0); }
static uint64_t walk_write(const uint64_t *numbers) { return copies(numbers[0], size, 1); }

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  size = number(argv[1]);
  memory = anonymous(MEMORY);
  // As JavaScript's: from malloc, not on the border of a page.
  buffer = malloc(size);
  if (buffer == NULL) return 1;
  memset(memory, 1, MEMORY);
  memset(buffer, 1, size);
  return bench_serve((const struct bench_command[]){
      {"hot", hot}, {"hot-write", hot_write}, {"walk", walk}, {"walk-write", walk_write}, {NULL, NULL}});
}
