/**
 * The likely cause of each failed call, by what failed and how. The kernel has one EINVAL for many causes; those that
 * can be told apart beforehand never get here, so what is said here is what is left.
 */

type Hints = Readonly<Record<string, string>>;

const TOO_MANY_FILES = 'this process has as many open files as it may: close some, or raise the limit (ulimit -n)';
const NO_IRQCHIP = 'the VM has no interrupt controller in the kernel: call createIrqchip (or enableSplitIrqchip) first';
const NO_MEMORY = 'the host or the memory cgroup of this process is out of memory';
const OLD_KERNEL = 'this kernel does not have the call, or was built without it';

/** For any call that has nothing better to say. */
const ANYWHERE: Hints = {
  EMFILE: TOO_MANY_FILES,
  ENFILE: 'the whole host has as many open files as it may (fs.file-max)',
  ENOMEM: NO_MEMORY,
  ENOTTY: OLD_KERNEL,
  EIO:
    'the VM is dead: KVM found a bug in its own state, its encryption context was moved to another VM, or this ' +
    'process is not the one that made it. Nothing of this VM can be used any more',
};

const BY_CALL: Readonly<Record<string, Hints>> = {
  fcntl: { EBADF: 'the descriptor is not open' },
  KVM_GET_API_VERSION: { ENOTTY: 'this is not /dev/kvm' },
  KVM_CREATE_VM: {
    EINVAL: 'this KVM does not make VMs of this type (KVM_CAP_VM_TYPES on the system handle has a bit for each)',
    EBUSY: 'another hypervisor holds the virtualization extensions of the processor',
    EOPNOTSUPP: 'virtualization is off in the BIOS, or another hypervisor holds the processor',
  },
  KVM_CREATE_VCPU: {
    EEXIST: 'a vCPU of this id was made before; one that was closed still counts',
    EINVAL:
      'the id is not below KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS are made already, or the VM was not yet ' +
      'initialised for its type (SEV: INIT2, TDX: INIT_VM)',
    E2BIG: 'KVM_CAP_MAX_VCPUS are made already',
  },
  KVM_CREATE_GUEST_MEMFD: {
    EINVAL: 'a flag is not among KVM_CAP_GUEST_MEMFD_FLAGS of this VM, or the size is 2^63 or more',
    ENOTTY:
      'this kernel is older than 6.8, or was built without guest_memfd (CONFIG_KVM_GUEST_MEMFD, ' +
      'CONFIG_KVM_SW_PROTECTED_VM)',
  },
  KVM_SET_USER_MEMORY_REGION: {
    EEXIST: 'the range overlaps a slot of this VM that another handle (in another thread) has set',
    EINVAL:
      'the slot was set by another handle and differs in more than its address and dirty logging, or this VM ' +
      'does not take the flags (KVM_CAP_READONLY_MEM)',
  },
  KVM_SET_USER_MEMORY_REGION2: {
    EEXIST: 'the range overlaps a slot of this VM that another handle (in another thread) has set',
    EBADF: 'the guest_memfd is closed',
    EINVAL: 'this VM does not take the flags, or the slot or this range of the guest_memfd was set by another handle',
    ENOTTY: 'this kernel is older than 6.8: use setUserMemoryRegion',
  },
  KVM_SET_MEMORY_ATTRIBUTES: {
    EINVAL: 'the attribute is not among KVM_CAP_MEMORY_ATTRIBUTES of this VM: only types with private memory have one',
    ENOTTY:
      'this kernel is older than 6.8, or was built without memory attributes (it needs a VM type with private ' +
      'memory, such as CONFIG_KVM_SW_PROTECTED_VM)',
    ENOMEM: 'the kernel keeps an entry for each page of the range and has no memory for them; nothing was changed',
  },
  mmap: {
    ENODEV: 'a guest_memfd can be mapped only when made with GUEST_MEMFD_FLAG_MMAP (Linux 6.18)',
    EACCES: 'the file was opened without the permission that the mapping needs',
    ENOMEM:
      'the host does not let this process map so much (overcommit, RLIMIT_AS), or has not enough huge pages ' +
      'reserved (vm.nr_hugepages)',
    EINVAL: 'offset or length do not fit the pages of the file (huge pages?)',
    EPERM: 'the file is sealed against writing, or may not be mapped so',
  },
  madvise: {
    EINVAL: 'this mapping does not take the advice (MADV_REMOVE needs shared memory)',
    EBUSY: 'huge pages that ArrayBuffers refer to cannot be given back: drop the views first',
    EFAULT: 'a page could not be had: past the end of the file, or without GUEST_MEMFD_FLAG_INIT_SHARED',
  },
  process_vm_readv: { EFAULT: 'the page is past the end of the file, was punched, or the host may not see it' },
  process_vm_writev: { EFAULT: 'the page is past the end of the file, is not writable, or the host may not see it' },
  fallocate: {
    EINVAL: 'the range ends past the end of the file, or is not in whole (huge) pages',
    EOPNOTSUPP: 'the file system cannot do this',
    ENOSPC: 'no space, or no huge pages, are left',
    EPERM: 'the file is sealed',
  },
  KVM_GET_DIRTY_LOG: {
    ENOENT:
      'there is no such slot, or it was set without KVM_MEM_LOG_DIRTY_PAGES (slots with a guest_memfd cannot ' +
      'be logged at all)',
    ENXIO: 'this VM uses dirty rings, and then there is no dirty log: read the rings',
    EINVAL: 'the slot id is too large',
  },
  KVM_CLEAR_DIRTY_LOG: {
    ENOENT: 'there is no such slot, or it was set without KVM_MEM_LOG_DIRTY_PAGES',
    ENXIO: 'this VM uses dirty rings, and then there is no dirty log',
    EINVAL: 'the range ends past the slot, or the log is not cleared by hand: call enableManualDirtyLogProtect first',
    ENOTTY: 'this kernel has no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2',
  },
  KVM_RESET_DIRTY_RINGS: { EINVAL: 'dirty rings were not enabled: call enableDirtyLogRing before the first vCPU' },
  KVM_ENABLE_CAP: {
    EINVAL:
      'this is not a capability that VMs of this type and kernel can enable, its arguments are not allowed, or ' +
      'it came too late (after the first vCPU)',
    EEXIST: 'the VM already has an interrupt controller',
    ENXIO: 'the VM has no interrupt controller in the kernel: create it first',
    E2BIG: 'the value is above the limit that checkExtension gives',
    EPERM: 'this needs a privilege (CAP_SYS_BOOT)',
    EBADF: 'the other VM is closed',
    EBUSY: 'one of the VMs is busy with another such operation',
  },
  KVM_CREATE_IRQCHIP: {
    EEXIST: 'the VM already has an interrupt controller',
    EINVAL: 'a vCPU was made before, or this type of VM takes only a split irqchip',
  },
  KVM_GET_IRQCHIP: { ENXIO: 'the VM has no full irqchip in the kernel: createIrqchip' },
  KVM_SET_IRQCHIP: { ENXIO: 'the VM has no full irqchip in the kernel: createIrqchip' },
  KVM_CREATE_PIT2: {
    ENOENT: 'the PIT needs the full irqchip: createIrqchip first',
    EEXIST: 'the VM has a PIT already',
  },
  KVM_GET_PIT2: { ENXIO: 'the VM has no PIT in the kernel: createPit2' },
  KVM_SET_PIT2: { ENXIO: 'the VM has no PIT in the kernel: createPit2' },
  KVM_REINJECT_CONTROL: { ENXIO: 'the VM has no PIT in the kernel: createPit2' },
  KVM_IRQ_LINE: { ENXIO: NO_IRQCHIP },
  KVM_IRQ_LINE_STATUS: { ENXIO: NO_IRQCHIP },
  KVM_SIGNAL_MSI: {
    EPERM: 'no vCPU took the interrupt: none has the APIC id of the address, or its APIC is off',
    EINVAL: NO_IRQCHIP,
  },
  KVM_SET_GSI_ROUTING: {
    EINVAL: `${NO_IRQCHIP}, or an entry names a pin of a chip that it does not have (a split one takes only messages)`,
  },
  KVM_IRQFD: {
    EINVAL: `${NO_IRQCHIP}, or \`resample\` without the full irqchip`,
    EAGAIN: 'the interrupt controller is not ready yet',
    EBADF: 'the eventfd is closed',
    EBUSY: 'the eventfd is assigned to an interrupt of this VM already',
  },
  KVM_IOEVENTFD: {
    EEXIST:
      'a doorbell for the same address, length and value is assigned already (one for any value or any length ' +
      'counts as the same)',
    EINVAL: 'this kernel lacks KVM_CAP_IOEVENTFD_ANY_LENGTH, which length 0 needs',
    ENOENT: 'no such ioeventfd is assigned: eventfd, address, length and datamatch must be those of the assignment',
    ENOSPC: 'the bus has as many devices as it takes (1000)',
  },
  KVM_REGISTER_COALESCED_MMIO: {
    ENOSPC: 'the bus has as many zones and devices as it takes (1000)',
    EINVAL: 'port zones need KVM_CAP_COALESCED_PIO',
  },
  KVM_UNREGISTER_COALESCED_MMIO: { EINVAL: 'port zones need KVM_CAP_COALESCED_PIO' },
  KVM_SET_CLOCK: { EINVAL: 'a flag is not among those that KVM_CAP_ADJUST_CLOCK gives' },
  KVM_SET_NR_MMU_PAGES: { EINVAL: 'fewer than 64 pages' },
  KVM_SET_TSS_ADDR: { EINVAL: 'the three pages do not fit below 4 GiB' },
  KVM_SET_IDENTITY_MAP_ADDR: { EINVAL: 'a vCPU was made before' },
  KVM_SET_BOOT_CPU_ID: { EBUSY: 'a vCPU was made before' },
  KVM_SET_TSC_KHZ: { EINVAL: 'the host cannot scale the TSC (KVM_CAP_TSC_CONTROL is 0) or not to this frequency' },
  KVM_GET_TSC_KHZ: { EIO: 'the TSC of this host is not stable' },
  KVM_X86_SET_MSR_FILTER: { EINVAL: 'a filter that denies by default needs a range' },
  KVM_SET_PMU_EVENT_FILTER: {
    E2BIG: 'a filter takes at most 300 events',
    ENOTTY: 'this KVM has no virtual PMU',
  },
  KVM_CREATE_DEVICE: {
    ENODEV: 'this kernel has no such device (x86-64 has only VFIO, and only with the module loaded)',
    EINVAL: 'this kernel has no such device, or it cannot be made twice',
  },
  KVM_GET_STATS_FD: { EINVAL: 'this kernel is older than 5.14' },
  KVM_MEMORY_ENCRYPT_OP: {
    ENOTTY: 'this type of VM, or this host, has no memory encryption',
    EINVAL: 'the VM is not in the state that the command needs, or a field is not allowed',
    EPERM: 'the command is not for VMs of this type',
    EIO: 'the firmware failed: its own error is in the command struct',
    EFAULT: 'a buffer is shorter than its length field says',
  },
  KVM_MEMORY_ENCRYPT_REG_REGION: {
    ENOTTY: 'only VMs of the SEV types have encrypted regions',
    EINVAL: 'the VM was not initialised, or is a mirror',
    ENOMEM: 'the pages are pinned, and this process may not lock so much memory (ulimit -l)',
  },
  KVM_MEMORY_ENCRYPT_UNREG_REGION: {
    ENOTTY: 'only VMs of the SEV types have encrypted regions',
    EINVAL: 'no region with exactly this offset and size is registered',
  },
  KVM_GET_MSRS: { EINVAL: 'this kernel is older than 4.18 and reads no feature MSRs on the system handle' },
  KVM_GET_SUPPORTED_HV_CPUID: { EINVAL: 'this kernel has no Hyper-V enlightenments (CONFIG_KVM_HYPERV)' },
  KVM_GET_DEVICE_ATTR: { ENXIO: 'there is no such attribute here' },
  KVM_SET_DEVICE_ATTR: { ENXIO: 'there is no such attribute here' },
};

/** What probably caused an error of the addon; undefined where nothing is known. */
export function hintFor(error: unknown): string | undefined {
  const { syscall, code } = error as { syscall?: unknown; code?: unknown };
  if (typeof syscall !== 'string' || typeof code !== 'string') return undefined;
  const known = Object.hasOwn(BY_CALL, syscall) ? own(BY_CALL[syscall]!, code) : undefined;
  if (known !== undefined) return known;
  // EIO of a file is something else than that of a VM.
  return code === 'EIO' && !syscall.startsWith('KVM_') ? undefined : own(ANYWHERE, code);
}

function own(hints: Hints, code: string): string | undefined {
  return Object.hasOwn(hints, code) ? hints[code] : undefined;
}
