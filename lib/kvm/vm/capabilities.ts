/** What can be switched on for a whole VM. *KVM_ENABLE_CAP* */
import { CAPS, kvmEnableCap, KVM_ENABLE_CAP, KVM_HC_MAP_GPA_RANGE } from '../../abi/index.ts';
import type { CapName } from '../../abi/index.ts';
import { boolean, rangeError, typeError, u32, u64, uint } from '../../arguments.ts';
import { KvmStateError } from '../../errors.ts';
import { capNumber } from '../caps.ts';
import { expectHandle } from '../handle.ts';
import { VmBase } from './base.ts';

/** Bits of the exits that {@link VmCapabilities.disableExits} leaves to the processor. */
export const DISABLE_EXITS = { mwait: 1n, hlt: 2n, pause: 4n, cstate: 8n, aperfmperf: 16n } as const;

export abstract class VmCapabilities extends VmBase {
  /**
   * Switches on a capability, with up to four arguments. The typed methods below do the common ones.
   *
   * @throws KvmSystemError EINVAL: this kernel does not have it, the arguments are not its own, or it comes too late.
   */
  enableCap(capability: number | CapName, args: readonly bigint[] = [], flags = 0): void {
    const cap = capNumber(capability);
    if (!Array.isArray(args)) throw typeError('an array of bigints', 'args', args);
    if (args.length > 4) throw rangeError('at most 4 arguments', 'args', args.length);
    const four = [0, 1, 2, 3].map((index) =>
      index < args.length ? u64(`args[${index}]`, (args as readonly bigint[])[index]) : 0n,
    );
    this.ioctl(KVM_ENABLE_CAP, kvmEnableCap.encode({ cap, flags: u32('flags', flags), args: four }), {
      state: `${capability}, arguments ${four.join(', ')}`,
      hint: this.#hint(cap),
    });
  }

  /**
   * Hypercalls that exit to the program instead of being answered by the kernel, as a mask of their numbers: default
   * KVM_HC_MAP_GPA_RANGE, with which a guest asks for memory to become private or shared. Replaces what was set; 0n
   * switches all off. Do it before the guest may call. KVM_CAP_EXIT_HYPERCALL is the mask of what is possible.
   */
  enableExitHypercall(mask: bigint = 1n << BigInt(KVM_HC_MAP_GPA_RANGE)): void {
    this.enableCap('KVM_CAP_EXIT_HYPERCALL', [mask]);
  }

  /**
   * Only the local APICs in the kernel; PIC, IOAPIC and PIT are the program's. Before the first vCPU, and instead of
   * `createIrqchip()`. `pins`: GSI routes reserved for the program's IOAPIC, at most 4096. KVM_CAP_SPLIT_IRQCHIP
   */
  enableSplitIrqchip(pins = 24): void {
    uint('pins', pins, { max: 4096 });
    this.expectNoVcpu('Splitting the irqchip');
    this.enableCap('KVM_CAP_SPLIT_IRQCHIP', [BigInt(pins)]);
  }

  /** 32-bit APIC ids (1) and no broadcast quirk (2); default both. Before ids above 254 are used. KVM_CAP_X2APIC_API */
  enableX2apicApi(flags = 3n): void {
    this.enableCap('KVM_CAP_X2APIC_API', [flags]);
  }

  /**
   * Lets the guest execute MWAIT, HLT, PAUSE or C-states itself ({@link DISABLE_EXITS}): quicker, but then it holds its
   * host processor. Before the first vCPU. KVM_CAP_X86_DISABLE_EXITS is the mask of what is possible.
   */
  disableExits(mask: bigint): void {
    this.expectNoVcpu('Disabling exits');
    this.enableCap('KVM_CAP_X86_DISABLE_EXITS', [mask]);
  }

  /**
   * MSR accesses that exit to the program: 1 invalid ones, 2 unknown ones, 4 those that the filter denies.
   * KVM_CAP_X86_USER_SPACE_MSR
   */
  enableUserSpaceMsr(mask: bigint): void {
    this.enableCap('KVM_CAP_X86_USER_SPACE_MSR', [mask]);
  }

  /**
   * Records dirty pages in a ring per vCPU instead of a bitmap per slot. Before the first vCPU, once.
   *
   * @param bytes - of one ring: a power of two from 4096 to KVM_CAP_DIRTY_LOG_RING; an entry has 16 bytes.
   */
  enableDirtyLogRing(bytes: number): void {
    uint('bytes', bytes, { min: 4096, max: 0x8000_0000 });
    if ((bytes & (bytes - 1)) !== 0) throw rangeError('a power of two', 'bytes', bytes);
    this.expectNoVcpu('Enabling the dirty ring');
    const modern = this.checkExtension('KVM_CAP_DIRTY_LOG_RING_ACQ_REL');
    const most = modern === 0 ? this.checkExtension('KVM_CAP_DIRTY_LOG_RING') : modern;
    if (bytes > most && most > 0) throw rangeError(`at most ${most} (KVM_CAP_DIRTY_LOG_RING)`, 'bytes', bytes);
    this.enableCap(modern !== 0 ? 'KVM_CAP_DIRTY_LOG_RING_ACQ_REL' : 'KVM_CAP_DIRTY_LOG_RING', [BigInt(bytes)]);
  }

  /**
   * The dirty log is cleared by `clearDirtyLog()` only, not by reading it; with `initiallySet`, all pages begin dirty.
   * KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
   */
  enableManualDirtyLogProtect(initiallySet = false): void {
    this.enableCap('KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2', [boolean('initiallySet', initiallySet) ? 3n : 1n]);
  }

  /** Emulation failures in user mode exit too, with the instruction's bytes. KVM_CAP_EXIT_ON_EMULATION_FAILURE */
  enableExitOnEmulationFailure(): void {
    this.enableCap('KVM_CAP_EXIT_ON_EMULATION_FAILURE', [1n]);
  }

  /**
   * Highest vCPU id plus one, so that the kernel can take less memory. Before the first vCPU, once.
   * KVM_CAP_MAX_VCPU_ID
   */
  setMaxVcpuId(count: number): void {
    uint('count', count, { min: 1, max: this.checkExtension('KVM_CAP_MAX_VCPU_ID') });
    this.expectNoVcpu('Limiting vCPU ids');
    this.enableCap('KVM_CAP_MAX_VCPU_ID', [BigInt(count)]);
  }

  /** Switches off KVM quirks; none can be switched on again. KVM_CAP_DISABLE_QUIRKS2 is the mask of those there are. */
  disableQuirks(mask: bigint): void {
    this.enableCap('KVM_CAP_DISABLE_QUIRKS2', [mask]);
  }

  /** Exceptions in vCPU events carry their payload (CR2, DR6) separately. KVM_CAP_EXCEPTION_PAYLOAD */
  enableExceptionPayload(enable = true): void {
    this.enableCap('KVM_CAP_EXCEPTION_PAYLOAD', [flag('enable', enable)]);
  }

  /** A pending triple fault shows in vCPU events. KVM_CAP_X86_TRIPLE_FAULT_EVENT */
  enableTripleFaultEvent(enable = true): void {
    this.enableCap('KVM_CAP_X86_TRIPLE_FAULT_EVENT', [flag('enable', enable)]);
  }

  /** MSR_PLATFORM_INFO reads as the host's (default of KVM) or faults. KVM_CAP_MSR_PLATFORM_INFO */
  enablePlatformInfo(enable = true): void {
    this.enableCap('KVM_CAP_MSR_PLATFORM_INFO', [flag('enable', enable)]);
  }

  /** No performance counters for the guest. Before the first vCPU. KVM_CAP_PMU_CAPABILITY */
  disablePmu(): void {
    this.expectNoVcpu('Disabling the PMU');
    this.enableCap('KVM_CAP_PMU_CAPABILITY', [1n]);
  }

  /** Exits when the guest takes a bus lock, or (false) not. KVM_CAP_X86_BUS_LOCK_EXIT */
  enableBusLockExit(enable = true): void {
    this.enableCap('KVM_CAP_X86_BUS_LOCK_EXIT', [boolean('enable', enable) ? 2n : 1n]);
  }

  /**
   * Exits when the guest lets no event in for `window` crystal clock cycles; `toUser` sends them to the program as
   * `'notify'`. Before the first vCPU. KVM_CAP_X86_NOTIFY_VMEXIT
   */
  enableNotifyVmexit(window: number, toUser = true): void {
    u32('window', window);
    this.expectNoVcpu('Enabling notify exits');
    this.enableCap('KVM_CAP_X86_NOTIFY_VMEXIT', [(BigInt(window) << 32n) | (boolean('toUser', toUser) ? 3n : 1n)]);
  }

  /** Longest time that KVM polls before it lets a halted vCPU sleep, in nanoseconds. KVM_CAP_HALT_POLL */
  setHaltPoll(nanoseconds: number): void {
    this.enableCap('KVM_CAP_HALT_POLL', [BigInt(u32('nanoseconds', nanoseconds))]);
  }

  /**
   * Period of the APIC bus clock, in nanoseconds. After the irqchip, before the first vCPU.
   * KVM_CAP_X86_APIC_BUS_CYCLES_NS
   */
  setApicBusCyclesNs(nanoseconds: number): void {
    uint('nanoseconds', nanoseconds, { min: 1, max: 0xffff_ffff });
    this.expectNoVcpu('Setting the APIC bus clock');
    this.enableCap('KVM_CAP_X86_APIC_BUS_CYCLES_NS', [BigInt(nanoseconds)]);
  }

  /**
   * Huge pages of this VM may be executable despite the iTLB multihit erratum. Needs CAP_SYS_BOOT; before the first
   * vCPU. KVM_CAP_VM_DISABLE_NX_HUGE_PAGES
   */
  disableNxHugePages(): void {
    this.expectNoVcpu('Allowing executable huge pages');
    this.enableCap('KVM_CAP_VM_DISABLE_NX_HUGE_PAGES', [0n]);
  }

  /**
   * Takes over the SEV or SEV-ES encryption context of another VM of the same type, which is dead afterwards. That a
   * kernel has the capability says nothing about the hardware: only this call tells. KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM
   */
  moveEncContextFrom(source: VmCapabilities): void {
    this.#encContext('KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM', source);
  }

  /** Becomes a mirror of another SEV VM: its own slots and vCPUs, the same key. KVM_CAP_VM_COPY_ENC_CONTEXT_FROM */
  copyEncContextFrom(source: VmCapabilities): void {
    this.#encContext('KVM_CAP_VM_COPY_ENC_CONTEXT_FROM', source);
  }

  #encContext(capability: CapName, source: VmCapabilities): void {
    expectHandle(VmCapabilities, 'a Vm', 'source', source);
    if (source === this) throw new KvmStateError('The source of an encryption context must be another VM');
    this.enableCap(capability, [BigInt(source.fd)]);
  }

  #hint(cap: number): string {
    if (this.checkExtension(cap) === 0) {
      return 'this kernel or this type of VM does not have the capability (it reports 0)';
    }
    if (cap === CAPS.KVM_CAP_SPLIT_IRQCHIP) return 'there is an irqchip already';
    if (cap === CAPS.KVM_CAP_VM_COPY_ENC_CONTEXT_FROM || cap === CAPS.KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM) {
      return 'the source is not an SEV VM of the same type, or this VM is one already';
    }
    return 'the arguments are not those of this capability, or it must be enabled earlier (before vCPUs, or once only)';
  }
}

function flag(name: string, value: boolean): bigint {
  return boolean(name, value) ? 1n : 0n;
}
