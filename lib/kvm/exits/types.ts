/**
 * Why a vCPU stopped: a union on `reason`, which is the kernel's name of the exit in kebab-case.
 *
 * Fields called `data`, `ret` and `error` are *live views* into the kvm_run mapping. They are valid until the next run
 * of the vCPU (or the next call that completes the exit): read what the guest wrote from them, and answer by writing
 * into them. Everything else is a copy. Nothing is zeroed beforehand for the exits that ask for an answer, except where
 * a field says so: an unanswered read gives the guest whatever was there.
 *
 * *KVM_RUN, struct kvm_run*
 */

/** A port access: `in`, `out`, `ins` or `outs`. */
export interface IoExit {
  readonly reason: 'io';
  /** As the guest sees it: an `'in'` wants an answer in `data`. */
  readonly direction: 'in' | 'out';
  readonly port: number;
  /** Bytes per access: 1, 2 or 4. */
  readonly size: number;
  /** How many accesses of `size` bytes to the same port: more than 1 for string instructions with `rep`. */
  readonly count: number;
  /** `size * count` bytes, little-endian. Live until the next run. */
  readonly data: Uint8Array;
}

/** An access to a guest physical address that no memslot covers, or a write to a read-only slot. */
export interface MmioExit {
  readonly reason: 'mmio';
  /** As the guest sees it: a `'read'` wants an answer in `data`. */
  readonly direction: 'read' | 'write';
  readonly gpa: bigint;
  /** 1 to 8 bytes, little-endian; wider accesses arrive as several exits. Live until the next run. */
  readonly data: Uint8Array;
}

/**
 * The access needs private memory where there is shared, or the other way round, or guest_memfd could not give the
 * page. Taken from the failing return of KVM_RUN, and from nowhere else. The vCPU has not moved: change what is wrong
 * and run again; the same exit comes back where nothing was changed. *KVM_EXIT_MEMORY_FAULT*
 */
export interface MemoryFaultExit {
  readonly reason: 'memory-fault';
  readonly gpa: bigint;
  /** In bytes. */
  readonly size: bigint;
  /** Raw, bits of newer kernels included. Bit 3 is KVM_MEMORY_EXIT_FLAG_PRIVATE. */
  readonly flags: bigint;
  /** The access was one to private memory. */
  readonly private: boolean;
  /** `'EHWPOISON'`: the page behind it is poisoned. */
  readonly errno: 'EFAULT' | 'EHWPOISON';
}

/** A hypercall that KVM_CAP_EXIT_HYPERCALL sends here, such as KVM_HC_MAP_GPA_RANGE (12). */
export interface HypercallExit {
  readonly reason: 'hypercall';
  /** The guest's RAX. */
  readonly nr: number;
  /** Six; KVM_HC_MAP_GPA_RANGE: gpa, pages, attributes. */
  readonly args: readonly bigint[];
  /** Bit 0: the caller is in 64-bit mode. */
  readonly flags: bigint;
  readonly longMode: boolean;
  /** What the guest gets in RAX. One element, live until the next run, preset to -1000n (-KVM_ENOSYS). */
  readonly ret: BigInt64Array;
}

/** Why an MSR access of the guest came to user space (KVM_MSR_EXIT_REASON_*). */
export type MsrExitCause = 'invalid' | 'unknown' | 'filter';

interface MsrExit {
  readonly index: number;
  /**
   * Why it came here: `'invalid'` (KVM knows the MSR and refuses the access), `'unknown'` (KVM does not know it),
   * `'filter'` (denied by KVM_X86_SET_MSR_FILTER).
   */
  readonly cause: MsrExitCause;
  /** Raw: 1, 2 or 4 for the causes above, or what a newer kernel says (reported as `'unknown'`). */
  readonly causeBits: number;
  /** One byte, live, preset to 0 by KVM: any other value makes the instruction raise #GP. */
  readonly error: Uint8Array;
  /** One element, live: what RDMSR gives (preset to 0 by KVM), or what WRMSR wrote. */
  readonly data: BigUint64Array;
}

/** RDMSR, with KVM_CAP_X86_USER_SPACE_MSR. *KVM_EXIT_X86_RDMSR* */
export interface RdmsrExit extends MsrExit {
  readonly reason: 'rdmsr';
}

/** WRMSR, with KVM_CAP_X86_USER_SPACE_MSR. *KVM_EXIT_X86_WRMSR* */
export interface WrmsrExit extends MsrExit {
  readonly reason: 'wrmsr';
}

/** HLT, where the local APIC is not in the kernel (or never: with it, the kernel waits for the interrupt itself). */
export interface HltExit {
  readonly reason: 'hlt';
}

/** A triple fault. On AMD, KVM has reset the vCPU already, so the registers say nothing about the cause. */
export interface ShutdownExit {
  readonly reason: 'shutdown';
}

/** The processor refused to enter the guest: its state is inconsistent. */
export interface FailEntryExit {
  readonly reason: 'fail-entry';
  /** The vendor's code. */
  readonly hardwareEntryFailureReason: bigint;
  /** The last host processor that tried. */
  readonly cpu: number;
}

/** KVM_INTERNAL_ERROR_* by name. */
export type InternalErrorName =
  'emulation' | 'simultaneous-exception' | 'delivery-event' | 'unexpected-exit' | 'unknown';

/** KVM could not go on. */
export interface InternalErrorExit {
  readonly reason: 'internal-error';
  /** `'emulation'`: an instruction that KVM's emulator lacks, or code where no memory is. */
  readonly suberror: InternalErrorName;
  /** The kernel's number of it. */
  readonly code: number;
  /** At most 16 words; their meaning depends on `suberror` and on the vendor. */
  readonly data: readonly bigint[];
  /** The bytes of the instruction that could not be emulated (a copy), where KVM gives them. */
  readonly instruction: Uint8Array | undefined;
}

/** The guest hit a breakpoint or step that KVM_SET_GUEST_DEBUG asked for. */
export interface DebugExit {
  readonly reason: 'debug';
  /** The vector: 1 for #DB (step, hardware breakpoint), 3 for #BP. */
  readonly exception: number;
  /** The linear address (CS base + rip). */
  readonly pc: bigint;
  readonly dr6: bigint;
  readonly dr7: bigint;
}

/** KVM_SYSTEM_EVENT_* by name. */
export type SystemEventName =
  'shutdown' | 'reset' | 'crash' | 'wakeup' | 'suspend' | 'sev-term' | 'tdx-fatal' | 'unknown';

/** The guest asked for something that concerns the whole machine. *KVM_EXIT_SYSTEM_EVENT* */
export interface SystemEventExit {
  readonly reason: 'system-event';
  readonly type: number;
  readonly typeName: SystemEventName;
  /** At most 16 words. `'sev-term'`: the GHCB value; `'tdx-fatal'`: sixteen registers. */
  readonly data: readonly bigint[];
}

/** A level-triggered interrupt of the split irqchip ended. */
export interface IoapicEoiExit {
  readonly reason: 'ioapic-eoi';
  readonly vector: number;
}

/** The guest can take an interrupt now, as `vcpu.requestInterruptWindow` asked. */
export interface IrqWindowOpenExit {
  readonly reason: 'irq-window-open';
}

/** The dirty ring needs to be emptied and reset before the vCPU can go on. */
export interface DirtyRingFullExit {
  readonly reason: 'dirty-ring-full';
}

/** The guest locked the bus, and KVM_CAP_X86_BUS_LOCK_EXIT is on. */
export interface BusLockExit {
  readonly reason: 'bus-lock';
}

/** No interrupt window for as long as KVM_CAP_X86_NOTIFY_VMEXIT allows. */
export interface NotifyExit {
  readonly reason: 'notify';
  readonly flags: number;
  /** The state of the vCPU is corrupted and must not be used further. */
  readonly contextInvalid: boolean;
}

/** A TDX guest called for something that user space must do. *KVM_EXIT_TDX* */
export interface TdxExit {
  readonly reason: 'tdx';
  readonly flags: bigint;
  /** 0x10000 GetTdVmCallInfo, 0x10002 GetQuote, 0x10004 SetupEventNotifyInterrupt. */
  readonly nr: number;
  /** The five words after `ret`, live: GetQuote has gpa and size, GetTdVmCallInfo the leaf and r11 to r14. */
  readonly data: BigUint64Array;
  /** One element, live, preset to 0x8000000000000003n (not supported). 0 for success, 1 to be called again. */
  readonly ret: BigUint64Array;
}

/** An SNP guest asked for an extended report, which carries the host's certificates. *KVM_EXIT_SNP_REQ_CERTS* */
export interface SnpReqCertsExit {
  readonly reason: 'snp-req-certs';
  readonly gpa: bigint;
  /** One element, live: the room at `gpa`, in pages; with ENOSPC in `ret`, set it to what is needed. */
  readonly npages: BigUint64Array;
  /** One element, live, preset to 5n (EIO). 0n for success, 28n (ENOSPC), 11n (EAGAIN). Anything else fails the run. */
  readonly ret: BigUint64Array;
}

/** The guest changed CR8 with the local APIC in user space. */
export interface SetTprExit {
  readonly reason: 'set-tpr';
  readonly cr8: bigint;
}

/** The guest touched the TPR of its APIC page. *KVM_TPR_ACCESS_REPORTING* */
export interface TprAccessExit {
  readonly reason: 'tpr-access';
  readonly rip: bigint;
  readonly write: boolean;
}

/** An SEV-ES guest parked an application processor. */
export interface ApResetHoldExit {
  readonly reason: 'ap-reset-hold';
}

/** KVM_EXIT_HYPERV_* by name. */
export type HypervEventName = 'synic' | 'hypercall' | 'syndbg' | 'unknown';

/** A Hyper-V enlightenment that user space implements. *struct kvm_hyperv_exit* */
export interface HypervExit {
  readonly reason: 'hyperv';
  readonly type: number;
  readonly typeName: HypervEventName;
  /**
   * The payload, six words, live. `'synic'`: msr, control, evt_page, msg_page; `'hypercall'`: input, *result*, two
   * parameters; `'syndbg'`: msr, control, *status*, send_page, recv_page, pending_page. Answers go to the slanted ones.
   */
  readonly data: BigUint64Array;
}

/** A Xen hypercall. *struct kvm_xen_exit* */
export interface XenExit {
  readonly reason: 'xen';
  readonly type: number;
  readonly longMode: boolean;
  readonly cpl: number;
  readonly input: bigint;
  /** Six. */
  readonly params: readonly bigint[];
  /** One element, live: what the guest gets in RAX. */
  readonly ret: BigInt64Array;
}

/** An exception that user space shall deal with. No current processor backend reports it. */
export interface ExceptionExit {
  readonly reason: 'exception';
  readonly exception: number;
  readonly errorCode: number;
}

/** KVM met a hardware exit that it does not know. */
export interface UnknownHardwareExit {
  readonly reason: 'unknown-exit';
  readonly hardwareExitReason: bigint;
}

/** What ended a run that the guest did not end: a kick, its time-out, or some other signal to the thread. */
export type InterruptCause = 'kick' | 'timeout' | 'signal';

/** The run was ended from outside, and not by the guest. Run again to go on. */
export interface InterruptedExit {
  readonly reason: 'interrupted';
  /** `'kick'`: {@link Vcpu.kick}, from any thread; `'timeout'`: `timeoutMs`; `'signal'`: a signal to the process. */
  readonly cause: InterruptCause;
}

/** An exit that this version does not know. Its payload is in `vcpu.exitPayload`. */
export interface UnknownExit {
  readonly reason: 'unknown';
  /** The kernel's number of it. */
  readonly code: number;
}

/** How a run ended. A union on `reason`; `data` and other live views are valid until the next run. */
export type VcpuExit =
  | IoExit
  | MmioExit
  | MemoryFaultExit
  | HypercallExit
  | RdmsrExit
  | WrmsrExit
  | HltExit
  | ShutdownExit
  | FailEntryExit
  | InternalErrorExit
  | DebugExit
  | SystemEventExit
  | IoapicEoiExit
  | IrqWindowOpenExit
  | DirtyRingFullExit
  | BusLockExit
  | NotifyExit
  | TdxExit
  | SnpReqCertsExit
  | SetTprExit
  | TprAccessExit
  | ApResetHoldExit
  | HypervExit
  | XenExit
  | ExceptionExit
  | UnknownHardwareExit
  | InterruptedExit
  | UnknownExit;

/** Every `reason` of a {@link VcpuExit}. */
export type VcpuExitReason = VcpuExit['reason'];

/** One member of the union: `VcpuExitOf<'mmio'>` is {@link MmioExit}. */
export type VcpuExitOf<R extends VcpuExitReason> = Extract<VcpuExit, { readonly reason: R }>;
