/**
 * A VM and host memory made of plain buffers, for the logic of lib/memory alone: which calls are made, in which order,
 * with which ranges. No kernel is imitated here: nothing is refused that the kernel would refuse, and no guest runs. What
 * the kernel says to these calls is what test/kvm is for.
 */
import type {
  AttributesRequest,
  GuestMemfdPort,
  HostMemoryPort,
  MappingPort,
  MemslotRequest,
  PreFaultRange,
  VmPort,
} from '../../lib/memory/ports.ts';

export class PlainMapping implements MappingPort {
  readonly length: number;
  readonly log: string[];
  readonly bytes: Uint8Array<ArrayBufferLike>;
  stable = true;
  closed = false;
  residentBytes: (offset: number, length: number) => number = () => 0;

  constructor(
    length: number,
    all: PlainMapping[],
    log: string[] = [],
    bytes: Uint8Array<ArrayBufferLike> = new Uint8Array(length),
  ) {
    this.length = length;
    this.log = log;
    this.bytes = bytes;
    all.push(this);
  }

  view(offset: number, length: number): Uint8Array {
    return this.bytes.subarray(offset, offset + length);
  }

  read(offset: number, into: Uint8Array): void {
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  write(offset: number, from: Uint8Array): void {
    this.bytes.set(from, offset);
  }

  fill(offset: number, length: number, value: number): void {
    this.bytes.fill(value, offset, offset + length);
  }

  madvise(offset: number, length: number, advice: number): void {
    this.log.push(`madvise ${advice} ${offset} ${length}`);
  }

  async madviseAsync(offset: number, length: number, advice: number): Promise<void> {
    await Promise.resolve();
    this.madvise(offset, length, advice);
  }

  resident(offset: number, length: number): number {
    return this.residentBytes(offset, length);
  }

  close(): void {
    this.closed = true;
  }
}

export class PlainGuestMemfd implements GuestMemfdPort {
  readonly vm: PlainVm;
  readonly size: bigint;
  readonly flags: bigint;
  closed = false;

  constructor(vm: PlainVm, size: bigint, flags: bigint) {
    this.vm = vm;
    this.size = size;
    this.flags = flags;
  }

  fallocate(offset: number, length: number): void {
    this.vm.log.push(`fallocate ${offset} ${length}`);
  }

  async fallocateAsync(offset: number, length: number): Promise<void> {
    await Promise.resolve();
    this.fallocate(offset, length);
  }

  punchHole(offset: number, length: number): void {
    this.vm.failNext('punch');
    this.vm.log.push(`punch ${offset} ${length}`);
  }

  async punchHoleAsync(offset: number, length: number): Promise<void> {
    await Promise.resolve();
    this.punchHole(offset, length);
  }

  map(offset: bigint, length: number): PlainMapping {
    this.vm.log.push(`map ${offset} ${length}`);
    return new PlainMapping(length, this.vm.mappings, this.vm.log);
  }

  close(): void {
    this.closed = true;
  }
}

export class PlainVm implements VmPort {
  closed = false;
  readonly log: string[] = [];
  readonly mappings: PlainMapping[] = [];
  readonly memfds: PlainGuestMemfd[] = [];
  readonly memslots = new Map<number, MemslotRequest>();
  readonly capabilities = new Map<number, number>([
    [231, 1],
    [233, 8],
    [234, 1],
    [236, 1],
    [244, 0],
  ]);
  readonly hostMemory: HostMemoryPort;
  /** Errors to throw at the next call of a kind. */
  readonly failures = new Map<string, Error>();

  constructor() {
    const map = (size: number): PlainMapping => new PlainMapping(size, this.mappings, this.log);
    this.hostMemory = {
      anonymous: (size) => map(size),
      memfd: (_name, size) => map(size),
      file: (_path, { size }) => map(size),
      again: (mapping) => new PlainMapping(mapping.length, this.mappings, this.log, (mapping as PlainMapping).bytes),
    };
  }

  get freeMemslot(): number {
    let slot = 0;
    while (this.memslots.has(slot)) slot++;
    return slot;
  }

  failNext(kind: string): void {
    const error = this.failures.get(kind);
    this.failures.delete(kind);
    if (error !== undefined) throw error;
  }

  checkExtension(capability: number): number {
    return this.capabilities.get(capability) ?? 0;
  }

  setUserMemoryRegion(request: MemslotRequest): void {
    this.log.push(`slot v1 ${request.slot}`);
    this.memslots.set(request.slot, request);
  }

  setUserMemoryRegion2(request: MemslotRequest): void {
    this.failNext('slot');
    this.log.push(`slot ${request.slot} 0x${request.gpa.toString(16)} ${request.size} flags ${request.flags}`);
    this.memslots.set(request.slot, request);
  }

  deleteMemslot(slot: number): void {
    this.log.push(
      `delete ${slot}, ${this.memslots.get(slot)?.mapping?.closed === true ? 'mapping closed' : 'mapping open'}`,
    );
    this.memslots.delete(slot);
  }

  createGuestMemfd(size: bigint, options: { readonly flags?: bigint } = {}): PlainGuestMemfd {
    const guestMemfd = new PlainGuestMemfd(this, size, options.flags ?? 0n);
    this.memfds.push(guestMemfd);
    return guestMemfd;
  }

  setMemoryAttributes({ address, size, attributes }: AttributesRequest): void {
    this.failNext('attributes');
    this.log.push(`attributes 0x${address.toString(16)} ${size} ${attributes === 8n ? 'private' : 'shared'}`);
  }

  async setMemoryAttributesAsync(request: AttributesRequest): Promise<void> {
    await Promise.resolve();
    this.setMemoryAttributes(request);
  }

  /** The log since the last call. */
  takeLog(): string[] {
    return this.log.splice(0);
  }
}

/** A vCPU whose pre-fault does `step` bytes at a time and counts its calls. */
export class PlainVcpu {
  readonly id: number;
  readonly vm: object;
  running = false;
  calls = 0;
  step = 1 << 20;
  failures: Error[] = [];

  constructor(vm: object, id: number) {
    this.vm = vm;
    this.id = id;
  }

  async preFaultMemoryAsync({ gpa, size }: PreFaultRange): Promise<PreFaultRange> {
    this.calls++;
    await Promise.resolve();
    const failure = this.failures.shift();
    if (failure !== undefined) throw failure;
    const done = size < BigInt(this.step) ? size : BigInt(this.step);
    return { gpa: gpa + done, size: size - done };
  }
}

/** An error as the addon makes them. */
export function systemError(code: string, errno: number, syscall: string): Error {
  return Object.assign(new Error(`${syscall}: ${code}`), { code, errno, syscall });
}
