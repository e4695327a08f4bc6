/** Words that all parts of this room use. */

export type Attribute = 'private' | 'shared';

/**
 * Which side may be discarded when it is left behind. `'private'`: the hole is punched when a range becomes shared;
 * `'shared'`: the host's pages are dropped when it becomes private; `'both'`; `'none'`: both copies stay, and a range
 * that goes back shows what was there before.
 */
export type DiscardPolicy = 'both' | 'private' | 'shared' | 'none';

/** Who asked: the program, KVM_HC_MAP_GPA_RANGE, or KVM_EXIT_MEMORY_FAULT. */
export type ConversionSource = 'explicit' | 'hypercall' | 'memory-fault';

/** What a conversion did. */
export interface Conversion {
  readonly gpa: bigint;
  /** In bytes, as asked for. */
  readonly size: number;
  readonly to: Attribute;
  readonly source: ConversionSource;
  /** Bytes that were on the other side before. */
  readonly changed: number;
  /** Bytes of address range given back on the side left behind, whether or not there were pages. */
  readonly discarded: number;
  /** Microseconds of wall time in the engine and the kernel. */
  readonly durationUs: number;
  /** The conversion is done, but the side left behind could not be discarded. */
  readonly discardError?: Error;
}

/** The events of a GuestMemory: `'conversion'`, after each one that changed something. */
export interface GuestMemoryEvents {
  readonly conversion: [Conversion];
}
