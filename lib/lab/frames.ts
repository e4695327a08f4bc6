/**
 * What is said over the virtio-serial port between the host and the lab's init (lab/init/init.h). A frame is one byte
 * type, four bytes length (little endian) and a payload.
 */
import { KvmError } from '../errors.ts';

export const FRAME_HEADER = 5;
export const FRAME_MAX = 64 * 1024;
/** Bytes of stdin that may be on their way: sent and not yet passed on to the command. */
export const INPUT_WINDOW = 256 * 1024;

export type HostFrame = 'spec' | 'input' | 'window' | 'signal';
export type GuestFrame = 'ready' | 'output' | 'error' | 'taken' | 'exit' | 'failed';

const TYPES: Readonly<Record<HostFrame | GuestFrame, string>> = {
  spec: 'S', input: 'I', window: 'W', signal: 'K', ready: 'R', output: 'O', error: 'E', taken: 'A', exit: 'X', failed: 'F',
};
const GUEST_FRAMES = new Map<number, GuestFrame>(
  (['ready', 'output', 'error', 'taken', 'exit', 'failed'] as const).map((name) => [TYPES[name].charCodeAt(0), name]),
);

export function encodeFrame(type: HostFrame, payload: Uint8Array = new Uint8Array()): Buffer {
  const frame = Buffer.alloc(FRAME_HEADER + payload.byteLength);
  frame.write(TYPES[type], 0, 'latin1');
  frame.writeUInt32LE(payload.byteLength, 1);
  frame.set(payload, FRAME_HEADER);
  return frame;
}

/** Cuts the port's byte stream into frames, however the chunks fall. */
export class FrameReader {
  #rest: Buffer = Buffer.alloc(0);
  readonly #onFrame: (type: GuestFrame, payload: Buffer) => void;

  constructor(onFrame: (type: GuestFrame, payload: Buffer) => void) {
    this.#onFrame = onFrame;
  }

  /** Throws for bytes that are no frame: then the two sides are out of step and nothing after them can be trusted. */
  push(chunk: Buffer): void {
    let bytes = this.#rest.byteLength === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    while (bytes.byteLength >= FRAME_HEADER) {
      const type = GUEST_FRAMES.get(bytes[0]!);
      const length = bytes.readUInt32LE(1);
      if (type === undefined || length > FRAME_MAX) {
        throw new KvmError(`the lab's port carried no frame but ${bytes.subarray(0, 32).toString('hex')}`, 'ERR_KVM_LAB_MACHINE');
      }
      if (bytes.byteLength < FRAME_HEADER + length) break;
      this.#onFrame(type, bytes.subarray(FRAME_HEADER, FRAME_HEADER + length));
      bytes = bytes.subarray(FRAME_HEADER + length);
    }
    this.#rest = bytes;
  }
}

/** What init is told to do. */
export interface LabSpec {
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** Directories that the command may write through to the host, in the order of their 9p tags. */
  readonly writable?: readonly string[];
  /** Size limit of the tmpfs that takes all other writes, as mount(8) has it. */
  readonly overlaySize?: string;
  /** Huge pages of 2 MiB to set aside. */
  readonly hugePages?: number;
  readonly hasInput?: boolean;
  /** Give the command a terminal of this size instead of three pipes. */
  readonly terminal?: { readonly rows: number; readonly columns: number };
}

/** NUL-terminated strings, the first byte of each says what it is: no quoting, so nothing to get wrong. */
export function encodeSpec(spec: LabSpec): Buffer {
  const items = [
    `c${spec.cwd}`,
    ...spec.argv.map((argument) => `a${argument}`),
    ...Object.entries(spec.env).map(([name, value]) => `e${name}=${value}`),
    ...(spec.writable ?? []).map((directory) => `w${directory}`),
    ...(spec.overlaySize === undefined ? [] : [`o${spec.overlaySize}`]),
    ...(spec.hugePages === undefined ? [] : [`h${spec.hugePages}`]),
    ...(spec.hasInput === true ? ['i'] : []),
    ...(spec.terminal === undefined ? [] : [`t${spec.terminal.rows}x${spec.terminal.columns}`]),
  ];
  for (const item of items) {
    if (item.includes('\0')) throw new TypeError(`Expected no NUL in the command, its directory or its environment but received ${JSON.stringify(item.slice(1))}`);
  }
  return Buffer.from(items.map((item) => `${item}\0`).join(''));
}

export function encodeWindow({ rows, columns }: { readonly rows: number; readonly columns: number }): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt16LE(rows, 0);
  payload.writeUInt16LE(columns, 2);
  return payload;
}
