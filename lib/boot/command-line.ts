/** Kernel command lines. */
import { string } from '../arguments.ts';

/**
 * The bytes of a command line with the NUL that ends it. UTF-8, as Linux takes it.
 * @param limit longest line that the kernel takes, in bytes, without the NUL
 * @throws RangeError where it is longer, or holds a NUL or a line end.
 */
export function commandLineBytes(line: string, limit: number): Uint8Array {
  string('cmdline', line);
  const bad = /[\0\n\r]/.exec(line);
  if (bad !== null)
    throw new RangeError(`Expected no NUL and no line end in cmdline but there is one at character ${bad.index}`);
  const bytes = Buffer.from(`${line}\0`);
  if (bytes.byteLength - 1 > limit) {
    throw new RangeError(
      `Expected at most ${limit} bytes for cmdline, which this kernel takes, but it has ${bytes.byteLength - 1}`,
    );
  }
  return bytes;
}

/** Whether a command line sets a parameter: `console`, `root`. */
export function hasParameter(line: string, name: string): boolean {
  return line.split(/\s+/).some((word) => word === name || word.startsWith(`${name}=`));
}
