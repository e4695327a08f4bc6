// <linux/kvm.h> and what kernel headers as old as 6.1 lack. Each definition is behind the name of its ioctl or macro,
// so that newer headers win; the assertions below hold for both. A number of an ioctl carries the size of its struct.
#pragma once

#include <linux/stddef.h>
#include <linux/types.h>

// Some headers make a flexible array from an empty struct, which has no size in C and one byte in C++: sizes and, with
// them, the numbers of ioctls would be wrong.
#ifdef __DECLARE_FLEX_ARRAY
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]
#endif
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cstddef>

#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvm_userspace_memory_region2 {
  __u32 slot;
  __u32 flags;
  __u64 guest_phys_addr;
  __u64 memory_size;
  __u64 userspace_addr;
  __u64 guest_memfd_offset;
  __u32 guest_memfd;
  __u32 pad1;
  __u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

#ifndef KVM_SET_MEMORY_ATTRIBUTES
struct kvm_memory_attributes {
  __u64 address;
  __u64 size;
  __u64 attributes;
  __u64 flags;
};
#define KVM_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#endif

#ifndef KVM_CREATE_GUEST_MEMFD
struct kvm_create_guest_memfd {
  __u64 size;
  __u64 flags;
  __u64 reserved[6];
};
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif

#ifndef KVM_PRE_FAULT_MEMORY
struct kvm_pre_fault_memory {
  __u64 gpa;
  __u64 size;
  __u64 flags;
  __u64 padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#endif
#ifndef KVM_MEMORY_ATTRIBUTE_PRIVATE
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ULL << 3)
#endif
#ifndef KVM_MEMORY_EXIT_FLAG_PRIVATE
#define KVM_MEMORY_EXIT_FLAG_PRIVATE (1ULL << 3)
#endif
#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP (1ULL << 0)
#endif
#ifndef GUEST_MEMFD_FLAG_INIT_SHARED
#define GUEST_MEMFD_FLAG_INIT_SHARED (1ULL << 1)
#endif

#ifndef KVM_EXIT_LOONGARCH_IOCSR
#define KVM_EXIT_LOONGARCH_IOCSR 38
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif
#ifndef KVM_EXIT_TDX
#define KVM_EXIT_TDX 40
#endif
#ifndef KVM_EXIT_SNP_REQ_CERTS
#define KVM_EXIT_SNP_REQ_CERTS 43
#endif

#ifndef KVM_X86_DEFAULT_VM
#define KVM_X86_DEFAULT_VM 0
#endif
#ifndef KVM_X86_SW_PROTECTED_VM
#define KVM_X86_SW_PROTECTED_VM 1
#endif
#ifndef KVM_X86_SEV_VM
#define KVM_X86_SEV_VM 2
#endif
#ifndef KVM_X86_SEV_ES_VM
#define KVM_X86_SEV_ES_VM 3
#endif
#ifndef KVM_X86_SNP_VM
#define KVM_X86_SNP_VM 4
#endif
#ifndef KVM_X86_TDX_VM
#define KVM_X86_TDX_VM 5
#endif

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif
#ifndef KVM_CAP_MEMORY_ATTRIBUTES
#define KVM_CAP_MEMORY_ATTRIBUTES 233
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237
#endif
#ifndef KVM_CAP_X86_GUEST_MODE
#define KVM_CAP_X86_GUEST_MODE 238
#endif
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS 244
#endif

namespace node_kvm {

// The exit data that kvm_run of older headers has no name for. All exit data begins where `hw` does.
struct MemoryFaultExit {
  __u64 flags;
  __u64 gpa;
  __u64 size;
};
inline constexpr std::size_t kExitDataOffset = offsetof(struct kvm_run, hw);
// A flexible array and not part of the ioctl's size: the eight bytes that follow `len` in kvm_signal_mask.
inline constexpr std::size_t kSignalSetSize = 8;
// Where, in pages, the ring of kvm_dirty_gfn begins in the vCPU's mapping.
inline constexpr std::size_t kDirtyRingPage = 64;
inline constexpr std::size_t kPageSize = 4096;

static_assert(sizeof(struct kvm_run) == 2352 && kExitDataOffset == 32);
static_assert(offsetof(struct kvm_run, immediate_exit) == 1 && offsetof(struct kvm_run, exit_reason) == 8);
static_assert(sizeof(struct kvm_userspace_memory_region) == 32);
static_assert(sizeof(struct kvm_userspace_memory_region2) == 160);
static_assert(sizeof(struct kvm_create_guest_memfd) == 64);
static_assert(sizeof(struct kvm_memory_attributes) == 32);
static_assert(sizeof(struct kvm_pre_fault_memory) == 64);
static_assert(sizeof(struct kvm_cpuid_entry2) == 40 && sizeof(struct kvm_msr_entry) == 16);
static_assert(sizeof(struct kvm_irq_routing_entry) == 48 && sizeof(struct kvm_reinject_control) == 32);
static_assert(sizeof(struct kvm_pmu_event_filter) == 32 && sizeof(struct kvm_msr_filter) == 392);
static_assert(sizeof(struct kvm_nested_state) == 128);
static_assert(sizeof(struct kvm_xsave) == 4096 && sizeof(struct kvm_dirty_gfn) == 16);
static_assert(sizeof(struct kvm_regs) == 144 && sizeof(struct kvm_sregs) == 312 && sizeof(struct kvm_sregs2) == 320);

static_assert(KVM_SET_USER_MEMORY_REGION == 0x4020AE46 && KVM_SET_USER_MEMORY_REGION2 == 0x40A0AE49);
static_assert(KVM_SET_MEMORY_ATTRIBUTES == 0x4020AED2 && KVM_CREATE_GUEST_MEMFD == 0xC040AED4);
static_assert(KVM_PRE_FAULT_MEMORY == 0xC040AED5 && KVM_RUN == 0xAE80 && KVM_CREATE_VM == 0xAE01);
static_assert(KVM_GET_SUPPORTED_CPUID == 0xC008AE05 && KVM_GET_SUPPORTED_HV_CPUID == 0xC008AEC1);
static_assert(KVM_GET_MSR_INDEX_LIST == 0xC004AE02 && KVM_GET_MSR_FEATURE_INDEX_LIST == 0xC004AE0A);
static_assert(KVM_SET_IRQCHIP == 0x8208AE63 && KVM_GET_IRQCHIP == 0xC208AE62 && KVM_REINJECT_CONTROL == 0xAE71);
static_assert(KVM_X86_SET_MSR_FILTER == 0x4188AEC6 && KVM_SET_PMU_EVENT_FILTER == 0x4020AEB2);
static_assert(KVM_MEMORY_ENCRYPT_OP == 0xC008AEBA && KVM_MEMORY_ENCRYPT_REG_REGION == 0x8010AEBB);
static_assert(KVM_MEMORY_ENCRYPT_UNREG_REGION == 0x8010AEBC && KVM_ENABLE_CAP == 0x4068AEA3);
static_assert(KVM_GET_XSAVE == 0x9000AEA4 && KVM_SET_XSAVE == 0x5000AEA5 && KVM_GET_XSAVE2 == 0x9000AECF);
static_assert(KVM_GET_NESTED_STATE == 0xC080AEBE && KVM_SET_NESTED_STATE == 0x4080AEBF);
static_assert(KVM_SET_SIGNAL_MASK == 0x4004AE8B && KVM_GET_REG_LIST == 0xC008AEB0);
static_assert(KVM_GET_DIRTY_LOG == 0x4010AE42 && KVM_CLEAR_DIRTY_LOG == 0xC018AEC0);

}  // namespace node_kvm
