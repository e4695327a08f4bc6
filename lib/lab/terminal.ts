/** A program in the lab on this process's terminal. */
import { Transform, type TransformCallback } from 'node:stream';
import { LabError } from './error.ts';
import { runInLab, type RunInLabOptions, type RunInLabResult } from './run.ts';

/** Ctrl-]. Followed by `q` it ends the lab; twice it goes to the program once. */
export const ESCAPE = 0x1d;
const QUIT = 'q'.charCodeAt(0);

/** Passes on what is typed and looks for the way out. */
export class EscapeFilter extends Transform {
  #escaped = false;
  readonly #onQuit: () => void;

  constructor(onQuit: () => void) {
    super();
    this.#onQuit = onQuit;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const passed: number[] = [];
    for (const byte of chunk) {
      if (!this.#escaped) {
        if (byte === ESCAPE) this.#escaped = true;
        else passed.push(byte);
        continue;
      }
      this.#escaped = false;
      if (byte === QUIT) {
        this.#onQuit();
        return done();
      }
      // Any other key after it: both are meant for the program, save a second Ctrl-], which stands for one.
      passed.push(...(byte === ESCAPE ? [ESCAPE] : [ESCAPE, byte]));
    }
    done(null, Buffer.from(passed));
  }
}

const size = (): { rows: number; columns: number } => ({ rows: process.stdout.rows ?? 24, columns: process.stdout.columns ?? 80 });

/**
 * Runs a command on this process's terminal, in raw mode: keys (Ctrl-C too) go to the command, the window's size
 * follows. The terminal is as it was when the promise settles, and also when this process exits before.
 * @throws LabError when stdin or stdout is no terminal.
 */
export async function runInTerminal(options: Omit<RunInLabOptions, 'stdin' | 'stdout' | 'stderr' | 'terminal'>): Promise<RunInLabResult> {
  const { stdin, stdout } = process;
  if (!stdin.isTTY || !stdout.isTTY) throw new LabError('a shell needs a terminal for stdin and stdout', 'ERR_KVM_LAB_MACHINE');
  const quit = new AbortController();
  const keys = new EscapeFilter(() => quit.abort(new LabError('the lab was ended with Ctrl-] q', 'ERR_KVM_LAB_MACHINE')));
  const wasRaw = stdin.isRaw;
  const restore = (): void => void stdin.setRawMode(wasRaw);
  let resize: (() => void) | undefined;
  process.once('exit', restore);
  stdin.setRawMode(true);
  stdin.pipe(keys);
  try {
    return await runInLab({
      ...options,
      terminal: size(),
      stdin: keys,
      stdout,
      signal: options.signal === undefined ? quit.signal : AbortSignal.any([options.signal, quit.signal]),
      onReady: (control) => {
        options.onReady?.(control);
        resize = (): void => control.resize(size());
        stdout.on('resize', resize);
        // It may have changed while the machine booted.
        resize();
      },
    });
  } finally {
    if (resize !== undefined) stdout.off('resize', resize);
    stdin.unpipe(keys);
    stdin.pause();
    restore();
    process.off('exit', restore);
  }
}
