/**
 * The numbers behind `exit.reason`. Those that are not here belong to other architectures or to newer kernels, and
 * arrive as `{ reason: 'unknown', code }`.
 */
import { EXIT_REASONS } from '../../abi/index.ts';
import type { VcpuExitReason } from './types.ts';

export const {
  KVM_EXIT_UNKNOWN,
  KVM_EXIT_EXCEPTION,
  KVM_EXIT_IO,
  KVM_EXIT_HYPERCALL,
  KVM_EXIT_DEBUG,
  KVM_EXIT_HLT,
  KVM_EXIT_MMIO,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_SHUTDOWN,
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_INTR,
  KVM_EXIT_SET_TPR,
  KVM_EXIT_TPR_ACCESS,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_SYSTEM_EVENT,
  KVM_EXIT_IOAPIC_EOI,
  KVM_EXIT_HYPERV,
  KVM_EXIT_X86_RDMSR,
  KVM_EXIT_X86_WRMSR,
  KVM_EXIT_DIRTY_RING_FULL,
  KVM_EXIT_AP_RESET_HOLD,
  KVM_EXIT_X86_BUS_LOCK,
  KVM_EXIT_XEN,
  KVM_EXIT_NOTIFY,
  KVM_EXIT_MEMORY_FAULT,
  KVM_EXIT_TDX,
  KVM_EXIT_SNP_REQ_CERTS,
} = EXIT_REASONS;

/**
 * The number in `exit_reason` of *struct kvm_run* of each reason that the kernel reports. `'interrupted'` and
 * `'unknown'` have none.
 */
export const exitCodes: Readonly<Record<Exclude<VcpuExitReason, 'interrupted' | 'unknown'>, number>> = {
  'unknown-exit': KVM_EXIT_UNKNOWN,
  exception: KVM_EXIT_EXCEPTION,
  io: KVM_EXIT_IO,
  hypercall: KVM_EXIT_HYPERCALL,
  debug: KVM_EXIT_DEBUG,
  hlt: KVM_EXIT_HLT,
  mmio: KVM_EXIT_MMIO,
  'irq-window-open': KVM_EXIT_IRQ_WINDOW_OPEN,
  shutdown: KVM_EXIT_SHUTDOWN,
  'fail-entry': KVM_EXIT_FAIL_ENTRY,
  'set-tpr': KVM_EXIT_SET_TPR,
  'tpr-access': KVM_EXIT_TPR_ACCESS,
  'internal-error': KVM_EXIT_INTERNAL_ERROR,
  'system-event': KVM_EXIT_SYSTEM_EVENT,
  'ioapic-eoi': KVM_EXIT_IOAPIC_EOI,
  hyperv: KVM_EXIT_HYPERV,
  rdmsr: KVM_EXIT_X86_RDMSR,
  wrmsr: KVM_EXIT_X86_WRMSR,
  'dirty-ring-full': KVM_EXIT_DIRTY_RING_FULL,
  'ap-reset-hold': KVM_EXIT_AP_RESET_HOLD,
  'bus-lock': KVM_EXIT_X86_BUS_LOCK,
  xen: KVM_EXIT_XEN,
  notify: KVM_EXIT_NOTIFY,
  'memory-fault': KVM_EXIT_MEMORY_FAULT,
  tdx: KVM_EXIT_TDX,
  'snp-req-certs': KVM_EXIT_SNP_REQ_CERTS,
};

/**
 * Whether KVM finishes the instruction behind this exit only at the next KVM_RUN, from what user space left in the
 * mapping. Until then rip and the destination registers are those of before.
 */
export function leavesPendingWork(code: number): boolean {
  switch (code) {
    case KVM_EXIT_IO:
    case KVM_EXIT_MMIO:
    case KVM_EXIT_HYPERCALL:
    case KVM_EXIT_HYPERV:
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
    case KVM_EXIT_X86_BUS_LOCK:
    case KVM_EXIT_XEN:
    case KVM_EXIT_TDX:
    case KVM_EXIT_SNP_REQ_CERTS:
      return true;
    default:
      return false;
  }
}
