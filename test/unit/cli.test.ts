import { describe, expect, it, vi } from 'vitest';
import pico from 'picocolors';
import { formatBytes, progress, table, toJson, visibleLength, wantsColor } from '../../lib/terminal.ts';
import { EXIT_FAILURE, EXIT_USAGE, main } from '../../lib/cli/program.ts';

const plain = pico.createColors(false);

async function run(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  let out = '';
  let err = '';
  const stdout = vi.spyOn(process.stdout, 'write').mockImplementation((text) => ((out += String(text)), true));
  const stderr = vi.spyOn(process.stderr, 'write').mockImplementation((text) => ((err += String(text)), true));
  const before = process.exitCode;
  try {
    process.exitCode = undefined;
    return { code: await main(argv), out, err };
  } finally {
    process.exitCode = before;
    stdout.mockRestore();
    stderr.mockRestore();
  }
}

describe('the command line', () => {
  it('shows the version of the package', async () => {
    const { code, out } = await run('--version');
    expect([code, out]).toEqual([0, `${process.env['npm_package_version'] ?? '0.1.0'}\n`]);
  });

  it('lists its commands and exit codes', async () => {
    const { code, out } = await run('--help');
    expect(code).toBe(0);
    for (const word of ['doctor', 'lab', 'demo', 'Exit codes']) expect(out).toContain(word);
  });

  it.each([[['nonsense']], [['--nonsense']], [['doctor', '--nonsense']], [['doctor', 'extra']], [[]]])(
    'refuses %j as usage',
    async (argv) => {
      const { code, err } = await run(...argv);
      expect(code).toBe(EXIT_USAGE);
      expect(err).not.toMatch(/^\s+at /m);
    },
  );

  it('shows the help of a command', async () => {
    expect((await run('doctor', '--help')).out).toContain('Exit codes: 0 private memory works');
    expect((await run('help', 'doctor')).out).toContain('--json');
  });

  it('has exit codes of its own for usage and failure', () => {
    expect([EXIT_USAGE, EXIT_FAILURE]).toEqual([64, 70]);
  });
});

describe('output', () => {
  it('colours terminals only, and never with NO_COLOR', () => {
    const tty = { isTTY: true };
    expect(wantsColor(tty, {}, {})).toBe(true);
    expect(wantsColor({}, {}, {})).toBe(false);
    expect(wantsColor(tty, {}, { NO_COLOR: '1' })).toBe(false);
    expect(wantsColor(tty, {}, { NO_COLOR: '' })).toBe(true);
    expect(wantsColor(tty, {}, { TERM: 'dumb' })).toBe(false);
    expect(wantsColor({}, {}, { FORCE_COLOR: '1' })).toBe(true);
    expect(wantsColor({}, {}, { FORCE_COLOR: '1', NO_COLOR: '1' })).toBe(false);
    expect(wantsColor(tty, { color: false }, { FORCE_COLOR: '1' })).toBe(false);
  });

  it('draws tables that fit', () => {
    const text = table({
      head: ['step', 'detail'],
      rows: [['one', 'word '.repeat(40).trim()]],
      colors: plain,
      width: 60,
    });
    for (const line of text.split('\n')) expect(visibleLength(line)).toBeLessThanOrEqual(60);
    expect(text.split('\n')[0]).toMatch(/^step +detail$/);
  });

  it('keeps every bit of a bigint in JSON', () => {
    expect(JSON.parse(toJson({ gpa: 2n ** 51n + 1n }))).toEqual({ gpa: '0x8000000000001' });
  });

  it('writes sizes for people', () => {
    expect([formatBytes(12), formatBytes(4096), formatBytes(3n << 20n), formatBytes(1.5 * 2 ** 30)]).toEqual([
      '12 bytes',
      '4 KiB',
      '3 MiB',
      '1.5 GiB',
    ]);
  });

  it('writes few lines of progress where there is no terminal', () => {
    const lines: string[] = [];
    const shown = progress('build', { stream: { write: (text: string) => lines.push(text) } });
    for (let done = 0; done <= 1000; done++) shown.update(done, 1000);
    shown.say('note');
    shown.stop();
    expect(lines).toEqual(['build: 0%\n', 'build: 100%\n', 'note\n']);
  });
});
