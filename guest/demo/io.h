/* The instructions that C has no words for. */
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

static inline u32 port_in(unsigned short port) {
  u32 value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

static inline void port_out(unsigned short port, u32 value) {
  __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline u64 read_tsc(void) {
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (u64)high << 32 | low;
}

static inline u64 read_msr(u32 index) {
  u32 low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
  return (u64)high << 32 | low;
}

static inline u64 read_cr3(void) {
  u64 value;
  __asm__ volatile("movq %%cr3, %0" : "=r"(value));
  return value;
}

/* Intel and the processors that copy it take VMCALL; AMD and Hygon take VMMCALL. */
static inline int vendor_takes_vmmcall(void) {
  u32 a = 0, b, c, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
  return c == 0x444d4163 /* "cAMD" */ || c == 0x656e6975 /* "uine", of HygonGenuine */;
}

static inline u64 hypercall(int use_vmmcall, u64 number, u64 a0, u64 a1, u64 a2) {
  u64 result = number;
  if (use_vmmcall) {
    __asm__ volatile("vmmcall" : "+a"(result) : "b"(a0), "c"(a1), "d"(a2), "S"(0UL) : "memory");
  } else {
    __asm__ volatile("vmcall" : "+a"(result) : "b"(a0), "c"(a1), "d"(a2), "S"(0UL) : "memory");
  }
  return result;
}
