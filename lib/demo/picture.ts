/** Draws guest memory in the terminal: one character per page, readable without colour. Pure. */
import type { Colors } from '../terminal.ts';

/** What a page is to the guest. */
export type PageState = 'private' | 'shared' | 'unbacked';

export interface MemoryRange {
  readonly gpa: bigint;
  /** In bytes, whole pages. */
  readonly size: number;
  readonly state: PageState;
  /** Whether memory is behind it now; false is a hole, which the next access fills with zeros. */
  readonly populated: boolean;
}

export interface PictureOptions {
  readonly colors: Colors;
  /** Bytes per character. Default 4096. */
  readonly blockSize?: number;
  /** Characters per line. Default 64. */
  readonly width?: number;
}

interface Cell {
  readonly char: string;
  readonly meaning: string;
  readonly paint: (colors: Colors) => (text: string) => string;
}

const CELLS = {
  private: { char: '#', meaning: 'private, populated', paint: (colors) => colors.magenta },
  'private-hole': { char: 'o', meaning: 'private, hole', paint: (colors) => colors.magenta },
  shared: { char: '=', meaning: 'shared, populated', paint: (colors) => colors.green },
  'shared-hole': { char: '-', meaning: 'shared, hole', paint: (colors) => colors.green },
  unbacked: { char: ' ', meaning: 'no memory', paint: (colors) => colors.dim },
  mixed: { char: '%', meaning: 'several of these', paint: (colors) => colors.yellow },
} satisfies Record<string, Cell>;

type CellName = keyof typeof CELLS;

/** Joins neighbours that are alike. Ranges must be sorted by gpa and not overlap. */
export function mergeRanges(ranges: readonly MemoryRange[]): MemoryRange[] {
  const merged: MemoryRange[] = [];
  for (const range of ranges) {
    const last = merged.at(-1);
    const alike =
      last !== undefined &&
      last.state === range.state &&
      last.populated === range.populated &&
      last.gpa + BigInt(last.size) === range.gpa;
    if (alike) merged[merged.length - 1] = { ...last, size: last.size + range.size };
    else merged.push(range);
  }
  return merged;
}

function cellOf({ state, populated }: MemoryRange): CellName {
  return state === 'unbacked' || populated ? state : `${state}-hole`;
}

function cellsOf(ranges: readonly MemoryRange[], blockSize: number): CellName[] {
  const cells: CellName[] = [];
  for (const range of ranges) {
    const first = Number(range.gpa) / blockSize;
    const last = (Number(range.gpa) + range.size) / blockSize;
    for (let index = Math.floor(first); index < last; index++) {
      const before = cells[index];
      const name = cellOf(range);
      cells[index] = before === undefined || before === name ? name : 'mixed';
    }
  }
  return Array.from(cells, (name) => name ?? 'unbacked');
}

/** The picture, with a gpa at the head of each line and a legend below. Lines without any memory are left out. */
export function drawMemory(
  ranges: readonly MemoryRange[],
  { colors, blockSize = 4096, width = 64 }: PictureOptions,
): string {
  const cells = cellsOf(ranges, blockSize);
  const digits = Math.max(8, Math.ceil(Math.log2(cells.length * blockSize || 1) / 4));
  const address = (cell: number): string => `0x${(cell * blockSize).toString(16).padStart(digits, '0')}`;
  const lines: string[] = [ruler(digits, width)];
  let skipped = false;
  for (let start = 0; start < cells.length; start += width) {
    const row = cells.slice(start, start + width);
    if (row.every((name) => name === 'unbacked')) {
      if (!skipped) lines.push(colors.dim(`${' '.repeat(digits + 2)}  (no memory)`));
      skipped = true;
      continue;
    }
    skipped = false;
    lines.push(`${colors.dim(address(start))} |${paintRow(row, colors)}|`);
  }
  const used = new Set(cells);
  const order = Object.keys(CELLS) as CellName[];
  const legend = order
    .filter((name) => name !== 'unbacked' && used.has(name))
    .map((name) => `${paintRow([name], colors)} ${CELLS[name].meaning}`);
  lines.push(`${legend.join('   ')}   (one character: ${blockSize / 1024} KiB)`);
  return lines.join('\n');
}

/** Marks every sixteenth character, to find an address by counting. */
function ruler(digits: number, width: number): string {
  const marks = Array.from({ length: width }, (_, column) => (column % 16 === 0 ? '+' : '.')).join('');
  return `${' '.repeat(digits + 2)} |${marks}|`;
}

/** Runs of equal cells share one colour code. */
function paintRow(row: readonly CellName[], colors: Colors): string {
  let text = '';
  for (let start = 0; start < row.length;) {
    let end = start;
    while (end < row.length && row[end] === row[start]) end++;
    const cell = CELLS[row[start]!];
    text += cell.paint(colors)(cell.char.repeat(end - start));
    start = end;
  }
  return text;
}
