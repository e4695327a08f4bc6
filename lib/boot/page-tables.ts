/** Page tables that map the first GiBs of guest memory to themselves with 2 MiB pages (Intel SDM vol. 3, 5.5). */

const PAGE = 4096;
const PRESENT_WRITABLE = 0b11n;
const HUGE = 1n << 7n;
const TWO_MIB = 1n << 21n;
const ENTRIES = 512;

/**
 * A PML4, one table of directory pointers, and a directory for each GiB.
 * @param gpa where the tables will lie, page aligned
 * @param gib how many GiB they map, 1 to 512
 */
export function identityPageTables(gpa: bigint, gib: number): Uint8Array {
  if (!Number.isInteger(gib) || gib < 1 || gib > ENTRIES)
    throw new RangeError(`Expected 1 to ${ENTRIES} for gib but received ${gib}`);
  const bytes = new Uint8Array((2 + gib) * PAGE);
  const view = new DataView(bytes.buffer);
  const table = (index: number): bigint => gpa + BigInt(index * PAGE);
  view.setBigUint64(0, table(1) | PRESENT_WRITABLE, true);
  for (let directory = 0; directory < gib; directory++) {
    view.setBigUint64(PAGE + 8 * directory, table(2 + directory) | PRESENT_WRITABLE, true);
    for (let entry = 0; entry < ENTRIES; entry++) {
      const address = BigInt(directory * ENTRIES + entry) * TWO_MIB;
      view.setBigUint64((2 + directory) * PAGE + 8 * entry, address | HUGE | PRESENT_WRITABLE, true);
    }
  }
  return bytes;
}
