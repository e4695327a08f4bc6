// memory-copy SIZE: memcpy of SIZE bytes between a buffer and memory of 64 MiB. "hot N": the same place N times;
// "walk N": one place after the other, so that what is copied is in no cache of the processor that is smaller.
#include "memory.h"

enum { MEMORY = 64 << 20 };

static uint64_t size;
static uint8_t *memory, *buffer;

static uint64_t copies(uint64_t n, uint64_t step) {
  uint64_t at = 0;
  const uint64_t start = bench_now();
  for (uint64_t i = 0; i < n; i++) {
    memcpy(buffer, memory + at, size);
    __asm__ volatile("" ::"r"(buffer) : "memory");
    at = (at + step) % MEMORY;
  }
  return bench_now() - start;
}

static uint64_t hot(const uint64_t *numbers) { return copies(numbers[0], 0); }
static uint64_t walk(const uint64_t *numbers) { return copies(numbers[0], size); }

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  size = number(argv[1]);
  memory = anonymous(MEMORY);
  buffer = anonymous(size);
  memset(memory, 1, MEMORY);
  memset(buffer, 1, size);
  return bench_serve((const struct bench_command[]){{"hot", hot}, {"walk", walk}, {NULL, NULL}});
}
