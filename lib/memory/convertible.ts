/** Conversions, for whoever asks: the program, a hypercall of the guest, or an access that faulted. */
import { types } from 'node:util';
import * as args from '../arguments.ts';
import { KVM_EFAULT, KVM_EOPNOTSUPP, KVM_HC_MAP_GPA_RANGE } from '../abi/index.ts';
import { KvmGuestError, KvmStateError, KvmSystemError, KvmUnsupportedError } from '../errors.ts';
import { AccessibleMemory } from './access.ts';
import { MemoryAttributes } from './attributes.ts';
import { ConversionEngine } from './conversion.ts';
import type { ConversionJob } from './conversion.ts';
import type { Attribute, Conversion, ConversionSource, DiscardPolicy } from './events.ts';
import { FaultGuard } from './fault-guard.ts';
import { hex } from './layout.ts';
import type { HostMemoryPort, HypercallPort, MemoryFaultPort, VcpuPort, VmPort } from './ports.ts';
import type { PrefaultOptions, PrefaultResult } from './prefault.ts';
import { checkConvertible, checkRange, parseMapGpaRange, parseMemoryFault } from './requests.ts';
import type { Range, Wanted } from './requests.ts';

/** How a GuestMemory behaves; each has a default. */
export interface GuestMemoryOptions {
  /** What conversions discard by default. Default `'both'`: nothing is held twice, and nothing old comes back. */
  readonly discard?: DiscardPolicy;
  /** Where host memory comes from. Default: the VM's own. */
  readonly host?: HostMemoryPort;
}

/** A range of guest memory, in whole pages. */
export interface RangeOptions {
  /** A multiple of 4096. */
  readonly gpa: bigint;
  /** In bytes, a multiple of 4096. */
  readonly size: number;
}

/** What range becomes private or shared, and what becomes of the side that it leaves. */
export interface ConvertOptions extends RangeOptions {
  readonly to: Attribute;
  /** Default: that of the GuestMemory. */
  readonly discard?: DiscardPolicy;
}

/** A conversion that leaves the event loop free, with pre-fault behind it where wanted. */
export interface ConvertAsyncOptions extends ConvertOptions {
  /** Map the range afterwards, with these vCPUs. */
  readonly prefault?: { readonly vcpus: readonly VcpuPort[] };
}

/** How a KVM_HC_MAP_GPA_RANGE was answered. */
export interface HypercallOutcome {
  /** What is in `exit.ret` now: 0n, or a negated KVM errno. */
  readonly ret: bigint;
  readonly conversion?: Conversion;
  /** What went wrong on the host's side. */
  readonly error?: Error;
}

/** Which vCPU an exit is of. */
export interface FaultOptions {
  /** Its id, which makes the guard against endless faults exact. */
  readonly vcpu?: number;
}

const POLICIES = ['both', 'private', 'shared', 'none'] as const;

export abstract class ConvertibleMemory extends AccessibleMemory {
  readonly attributes = new MemoryAttributes(this.attributeMap);
  /** What conversions discard where the call does not say. */
  readonly discardPolicy: DiscardPolicy;
  protected readonly engine: ConversionEngine;
  protected readonly guard = new FaultGuard();

  constructor(vm: VmPort, options: GuestMemoryOptions) {
    const { discard = 'both', host } = args.options('options', options, ['discard', 'host']);
    super(vm, host);
    this.discardPolicy = args.oneOf('discard', discard, POLICIES);
    this.engine = new ConversionEngine({
      vm,
      layout: this.layout,
      attributes: this.attributeMap,
      changed: (start, end) => this.guard.changed(start, end),
    });
  }

  /** Which descriptor takes the attributes: `'vm'`, `'guest-memfd'`, or `'none'` for a VM without private memory. */
  get attributesOn(): 'vm' | 'guest-memfd' | 'none' {
    return this.engine.port.where;
  }

  abstract prefault(options: PrefaultOptions): Promise<PrefaultResult>;

  /**
   * Makes a range private or shared, then discards the side left behind. Parts that are so already are left alone.
   * The guest's next access waits for it. The two sides hold separate copies: nothing is copied from one to the other.
   *
   * @throws KvmUnsupportedError where the VM has no private memory; RangeError for a range that is not all in slots;
   *   KvmSystemError: `attributes` then says what was converted before.
   */
  convert(options: ConvertOptions): Conversion {
    const job = this.#job(options, ['gpa', 'size', 'to', 'discard']);
    return this.#finish(this.engine.now(job), true);
  }

  /** The same off the main thread. Conversions of one GuestMemory run one after another. */
  async convertAsync(options: ConvertAsyncOptions): Promise<Conversion> {
    const job = this.#job(options, ['gpa', 'size', 'to', 'discard', 'prefault']);
    const { vcpus } = args.options('prefault', options.prefault, ['vcpus']);
    if (options.prefault !== undefined && !Array.isArray(vcpus))
      throw args.typeError('an array of Vcpu', 'prefault.vcpus', vcpus);
    const conversion = this.#finish(await this.engine.later(job, () => this.#recheck(job)), true);
    if (options.prefault !== undefined) {
      await this.prefault({ gpa: options.gpa, size: options.size, vcpus: options.prefault.vcpus });
    }
    return conversion;
  }

  /**
   * Answers KVM_HC_MAP_GPA_RANGE: converts and sets `exit.ret` to 0, or to a negated KVM errno for what the guest may
   * not have: -KVM_EINVAL for a range that is unaligned, empty, or not all memory, -KVM_EOPNOTSUPP for memory without a
   * private side, -EAGAIN while an asynchronous conversion works on the range. Whatever the guest passes, it does not throw.
   *
   * @returns undefined for any other hypercall, which is left as it is.
   */
  handleHypercall(exit: HypercallPort): HypercallOutcome | undefined {
    const job = this.#hypercallJob(exit);
    if (job === undefined || 'ret' in job) return job;
    try {
      return this.#answered(exit, this.engine.now(job));
    } catch (error) {
      return this.#refused(exit, error);
    }
  }

  /** The same off the main thread. Await it before the vCPU runs again. */
  async handleHypercallAsync(exit: HypercallPort): Promise<HypercallOutcome | undefined> {
    const job = this.#hypercallJob(exit);
    if (job === undefined || 'ret' in job) return job;
    let conversion: Conversion;
    try {
      conversion = await this.engine.later(job, () => this.#recheck(job));
    } catch (error) {
      return this.#refused(exit, error);
    }
    return this.#answered(exit, conversion);
  }

  /**
   * Serves KVM_EXIT_MEMORY_FAULT by converting the range to what the access wanted. Run the vCPU again afterwards.
   *
   * @throws KvmGuestError where no conversion can serve the access, and for the same fault again when nothing was left
   *   to change.
   */
  handleMemoryFault(exit: MemoryFaultPort, options: FaultOptions = {}): Conversion {
    const { vcpu } = args.options('options', options, ['vcpu']);
    this.assertOpen();
    const wanted = parseMemoryFault(this.vmPort, this.layout, exit);
    const job = this.#jobFor(wanted, 'memory-fault');
    const conversion = this.engine.now(job);
    this.#guardAgainstLoop(exit, wanted, conversion, vcpu);
    return this.#finish(conversion, false);
  }

  /** The same off the main thread. */
  async handleMemoryFaultAsync(exit: MemoryFaultPort, options: FaultOptions = {}): Promise<Conversion> {
    const { vcpu } = args.options('options', options, ['vcpu']);
    this.assertOpen();
    const wanted = parseMemoryFault(this.vmPort, this.layout, exit);
    const job = this.#jobFor(wanted, 'memory-fault');
    const conversion = await this.engine.later(job, () => this.#recheck(job));
    this.#guardAgainstLoop(exit, wanted, conversion, vcpu);
    return this.#finish(conversion, false);
  }

  #job(options: ConvertOptions, keys: readonly string[]): ConversionJob {
    const range = this.checkRange(options, keys);
    const to = args.oneOf('to', options.to, ['private', 'shared']);
    const discard = args.oneOf('discard', options.discard ?? this.discardPolicy, POLICIES);
    const job: ConversionJob = { start: range.start, end: range.end, to, discard, source: 'explicit' };
    checkConvertible(this.vmPort, this.layout, job);
    return job;
  }

  /** While an asynchronous conversion waited for its turn, slots may have gone. */
  #recheck({ start, end, to }: Wanted): void {
    checkRange(this.layout, BigInt(start), end - start);
    checkConvertible(this.vmPort, this.layout, { start, end, to });
  }

  #hypercallJob(exit: HypercallPort): ConversionJob | HypercallOutcome | undefined {
    if (typeof exit !== 'object' || exit === null || typeof exit.nr !== 'number') {
      throw args.typeError('a hypercall exit', 'exit', exit);
    }
    if (exit.nr !== KVM_HC_MAP_GPA_RANGE) return undefined;
    // Before anything is converted that the guest then is not told of.
    if (!types.isBigInt64Array(exit.ret)) throw args.typeError('a BigInt64Array', 'exit.ret', exit.ret);
    const wanted = parseMapGpaRange(this.layout, exit);
    if (typeof wanted !== 'bigint') return this.#jobFor(wanted, 'hypercall');
    exit.ret[0] = wanted;
    return { ret: wanted };
  }

  /** Field by field: a spread costs more than the ioctl for a page. */
  #jobFor({ start, end, to }: Wanted, source: ConversionSource): ConversionJob {
    return { start, end, to, discard: this.discardPolicy, source };
  }

  #answered(exit: HypercallPort, conversion: Conversion): HypercallOutcome {
    exit.ret[0] = 0n;
    return { ret: 0n, conversion: this.#finish(conversion, false) };
  }

  #refused(exit: HypercallPort, error: unknown): HypercallOutcome {
    const ret = guestErrno(error);
    exit.ret[0] = ret;
    if (error instanceof Error) return { ret, error };
    throw error;
  }

  #guardAgainstLoop(exit: MemoryFaultPort, wanted: Wanted, { changed }: Conversion, vcpu: number | undefined): void {
    if (changed > 0) return;
    const vcpus = (this.vmPort as { readonly vcpus?: { readonly length?: number; readonly size?: number } }).vcpus;
    if (this.guard.unchanged(wanted, vcpu, vcpus?.length ?? vcpus?.size ?? 1)) return;
    throw new KvmGuestError(
      `The guest's ${wanted.to} access at ${hex(exit.gpa)} faults again and again, though the ` +
        `range is ${wanted.to}: its guest_memfd may be closed, or have no page for it`,
      { exit: { ...exit } },
    );
  }

  #finish(conversion: Conversion, throws: boolean): Conversion {
    if (conversion.changed > 0) this.emit('conversion', conversion);
    if (throws && conversion.discardError !== undefined) throw conversion.discardError;
    return conversion;
  }

  protected checkRange(options: RangeOptions, keys: readonly string[]): Range {
    this.assertOpen();
    const given = args.options('options', options, keys as readonly (keyof RangeOptions & string)[]);
    return checkRange(this.layout, given.gpa, given.size);
  }

  protected idleRange(options: RangeOptions, keys: readonly string[]): Range {
    const range = this.checkRange(options, keys);
    this.engine.assertIdle(range.start, range.end);
    return range;
  }
}

/** The number that the guest gets when the host could not do what it asked for. */
function guestErrno(error: unknown): bigint {
  if (error instanceof KvmSystemError) return BigInt(error.errno);
  if (error instanceof KvmUnsupportedError) return -KVM_EOPNOTSUPP;
  if (error instanceof KvmStateError && error.code === 'ERR_KVM_BUSY') return -11n;
  return -KVM_EFAULT;
}
