/**
 * What programs print for people: tables, colours, JSON, progress. Results go to stdout, progress and errors to stderr, so that
 * a pipe gets only results. Colour and moving bars appear on a terminal only, and never where NO_COLOR is set.
 */
import CliTable from 'cli-table3';
import cliProgress from 'cli-progress';
import pico from 'picocolors';

export type Colors = ReturnType<typeof pico.createColors>;

export interface OutputOptions {
  /** `--no-color` gives false. Default: as the terminal and NO_COLOR say. */
  readonly color?: boolean | undefined;
}

/** Whether to colour what goes to `stream`: NO_COLOR (any value but the empty one) beats FORCE_COLOR beats the terminal. */
export function wantsColor(
  stream: { readonly isTTY?: boolean },
  { color }: OutputOptions = {},
  env: NodeJS.ProcessEnv = process.env,
): boolean {
  if (color === false || (env['NO_COLOR'] ?? '') !== '') return false;
  const force = env['FORCE_COLOR'];
  if (force !== undefined) return force !== '0' && force !== 'false';
  return stream.isTTY === true && env['TERM'] !== 'dumb';
}

export function colorsFor(stream: { readonly isTTY?: boolean }, options: OutputOptions = {}): Colors {
  return pico.createColors(wantsColor(stream, options));
}

export interface TableOptions {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  readonly colors: Colors;
  /** Width of the terminal in columns; the last column is wrapped to fit. Default: that of stdout, or 120. */
  readonly width?: number | undefined;
}

const HORIZONTAL_ONLY = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
};

/** A table without a frame, so that it can be read aloud, searched and pasted. Ends without a line break. */
export function table({
  head,
  rows,
  colors,
  width = process.stdout.columns ?? (Number(process.env['COLUMNS']) || 120),
}: TableOptions): string {
  const columns = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => visibleLength(row[column] ?? ''))),
  );
  const last = columns.length - 1;
  const taken = columns.slice(0, last).reduce((sum, size) => sum + size + 2, 0);
  columns[last] = Math.max(24, Math.min(columns[last] ?? 0, width - taken - 1));
  const drawn = new CliTable({
    head: head.map((title) => colors.bold(title)),
    chars: HORIZONTAL_ONLY,
    style: { head: [], border: [], compact: true, 'padding-left': 0, 'padding-right': 0 },
    colWidths: columns,
    wordWrap: true,
  });
  for (const row of rows) drawn.push([...row]);
  return drawn
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

// eslint-disable-next-line no-control-regex
const COLOR_CODES = /\u001b\[[0-9;]*m/g;

/** Columns that a text takes, without its colour codes. */
export function visibleLength(text: string): number {
  return Math.max(
    ...text
      .replace(COLOR_CODES, '')
      .split('\n')
      .map((line) => line.length),
  );
}

/** JSON with bigints as `0x` strings, which keep every bit. */
export function toJson(value: unknown): string {
  return JSON.stringify(
    value,
    (_key, inner: unknown) => (typeof inner === 'bigint' ? `0x${inner.toString(16)}` : inner),
    2,
  );
}

export function printJson(value: unknown): void {
  process.stdout.write(`${toJson(value)}\n`);
}

/** `4 KiB`, `1.5 MiB`, ... */
export function formatBytes(bytes: number | bigint): string {
  const value = Number(bytes);
  for (const [unit, size] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (Math.abs(value) >= size) return `${Number((value / size).toFixed(1))} ${unit}`;
  }
  return `${value} bytes`;
}

export interface Progress {
  /** `done` of `total`, in any unit; `text` says what is being done. */
  update(done: number, total: number, text?: string): void;
  /** A line of its own, above the bar. */
  say(text: string): void;
  stop(): void;
}

export interface ProgressStream {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/**
 * A bar on a terminal; elsewhere one line per `everyMs`, so that a log shows that something happens and does not drown.
 */
export function progress(
  title: string,
  { stream = process.stderr, everyMs = 10_000 }: { stream?: ProgressStream; everyMs?: number } = {},
): Progress {
  return stream.isTTY === true ? bar(title, stream) : sparseLines(title, stream, everyMs);
}

function bar(title: string, stream: ProgressStream): Progress {
  const drawn = new cliProgress.SingleBar(
    {
      format: `${title} [{bar}] {percentage}% {text}`,
      hideCursor: true,
      clearOnComplete: true,
      etaBuffer: 1,
      fps: 5,
      stream: stream as NodeJS.WriteStream,
    },
    cliProgress.Presets.shades_classic,
  );
  let started = false;
  return {
    update(done, total, text = '') {
      if (!started) drawn.start(total, done, { text });
      started = true;
      drawn.setTotal(total);
      drawn.update(done, { text });
    },
    say(text) {
      if (started) stream.write('\r\u001b[K');
      stream.write(`${text}\n`);
    },
    stop() {
      if (started) drawn.stop();
      started = false;
    },
  };
}

function sparseLines(title: string, stream: ProgressStream, everyMs: number): Progress {
  let last = -Infinity;
  return {
    update(done, total, text = '') {
      const now = performance.now();
      if (now - last < everyMs && done < total) return;
      last = now;
      stream.write(`${title}: ${Math.floor((100 * done) / Math.max(total, 1))}%${text === '' ? '' : ` ${text}`}\n`);
    },
    say(text) {
      stream.write(`${text}\n`);
    },
    stop() {},
  };
}

/**
 * Makes `node-kvm ... | head` end quietly: a reader that has seen enough is not an error. Other errors of the stream
 * are.
 */
export function endOnBrokenPipe(streams: readonly NodeJS.WriteStream[] = [process.stdout, process.stderr]): void {
  for (const stream of streams) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(process.exitCode ?? 0);
      throw error;
    });
  }
}
