/** A raw image: bytes at an address, and a vCPU that starts there in the mode that the caller names. */
import { gpa as checkGpa, oneOf } from '../arguments.ts';
import { LaunchImage } from '../memory/launch-image.ts';
import { longMode, protectedMode } from './cpu-state.ts';
import type { BootOptions } from './image.ts';

/** `real`: 16-bit, segments 0. `protected`: 32-bit, flat, no paging. `long`: 64-bit, 4 GiB mapped to themselves. */
export type CpuMode = 'real' | 'protected' | 'long';

export interface FlatOptions {
  /** Where the first byte goes. Default: 1 MiB; in real mode 0x10000, so that cs is 0x1000 and rip 0. */
  readonly load?: bigint;
  /** Where execution starts. Default: the first byte. */
  readonly entry?: bigint;
  /** Default: `'long'`. */
  readonly mode?: CpuMode;
}

const FLAGS_RESERVED = 2n;
const REAL_MODE_LIMIT = 0x10_0000n;

/** @throws RangeError for an address that the mode cannot reach. */
export function bootFlat(bytes: Uint8Array, { ram }: Pick<BootOptions, 'ram'>, options: FlatOptions = {}): LaunchImage {
  const mode = oneOf('mode', options.mode ?? 'long', ['real', 'protected', 'long']);
  const load = checkGpa('load', options.load ?? (mode === 'real' ? 0x1_0000n : 0x10_0000n));
  const entry = checkGpa('entry', options.entry ?? load);
  const end = load + BigInt(bytes.byteLength);
  if (!ram.some((range) => load >= range.gpa && end <= range.gpa + BigInt(range.size))) {
    throw new RangeError(
      `The image of ${bytes.byteLength} bytes at 0x${load.toString(16)} does not lie in guest memory`,
    );
  }
  const image = new LaunchImage();
  image.add({ name: 'image', gpa: load, bytes });
  if (mode === 'real') {
    if (entry >= REAL_MODE_LIMIT)
      throw new RangeError(`Expected an entry below 1 MiB in real mode but received 0x${entry.toString(16)}`);
    image.vcpu = realMode(entry);
  } else {
    const sregs = mode === 'long' ? longMode(image) : protectedMode(image);
    image.vcpu = { sregs, regs: { rip: entry, rflags: FLAGS_RESERVED } };
  }
  return image;
}

function realMode(entry: bigint): NonNullable<LaunchImage['vcpu']> {
  const selector = Number(entry >> 4n) & 0xf000;
  const segment = (value: number, type: number) => ({
    base: BigInt(value) << 4n,
    limit: 0xffff,
    selector: value,
    type,
    present: true,
    dpl: 0,
    db: false,
    s: true,
    l: false,
    g: false,
    avl: false,
    unusable: false,
  });
  const data = segment(0, 3);
  const cs = segment(selector, 11);
  return {
    sregs: { cs, ds: data, es: data, fs: data, gs: data, ss: data },
    regs: { rip: entry - cs.base, rflags: FLAGS_RESERVED },
  };
}
