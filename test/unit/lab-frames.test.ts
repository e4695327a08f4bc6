import { describe, expect, it } from 'vitest';
import { encodeFrame, encodeSpec, encodeWindow, FrameReader, type LabSpec } from '../../lib/lab/frames.ts';
import { escapeValue, qemuArguments } from '../../lib/lab/qemu.ts';
import { ESCAPE, EscapeFilter } from '../../lib/lab/terminal.ts';
import { writeCpio } from '../../lib/lab/cpio.ts';

const spec: LabSpec = { argv: ['echo', 'a b', '', '"$(x)"'], cwd: '/tmp/ü', env: { A: '1=2', B: 'x\ny' } };

describe('the words between host and lab', () => {
  it('carry a command without any quoting', () => {
    expect(encodeSpec(spec).toString()).toBe('c/tmp/ü\0aecho\0aa b\0a\0a"$(x)"\0eA=1=2\0eB=x\ny\0');
    const all = {
      ...spec,
      argv: ['x'],
      env: {},
      writable: ['/w'],
      overlaySize: '1G',
      hugePages: 4,
      hasInput: true,
      terminal: { rows: 24, columns: 80 },
    };
    expect(encodeSpec(all).toString()).toBe('c/tmp/ü\0ax\0w/w\0o1G\0h4\0i\0t24x80\0');
  });

  it('refuse a NUL, which would start another word', () => {
    expect(() => encodeSpec({ ...spec, argv: ['a\0eX=1'] })).toThrow(TypeError);
  });

  it('are framed with a type and a length', () => {
    expect(encodeFrame('input', Buffer.from('hey')).toString('hex')).toBe(
      `${Buffer.from('I').toString('hex')}03000000${Buffer.from('hey').toString('hex')}`,
    );
    expect(encodeWindow({ rows: 24, columns: 300 }).toString('hex')).toBe('18002c01');
  });

  it('are read back however the chunks fall', () => {
    const stream = Buffer.concat([frame('O', 'hello'), frame('E', ''), frame('X', '\u0003\0')]);
    for (let size = 1; size <= stream.length; size++) {
      const seen: [string, string][] = [];
      const reader = new FrameReader((type, payload) => seen.push([type, payload.toString()]));
      for (let at = 0; at < stream.length; at += size) reader.push(stream.subarray(at, at + size));
      expect(seen).toEqual([
        ['output', 'hello'],
        ['error', ''],
        ['exit', '\u0003\0'],
      ]);
    }
  });

  it('are refused when they are no frames', () => {
    expect(() => new FrameReader(() => {}).push(Buffer.from('garbage'))).toThrow('carried no frame');
    expect(() => new FrameReader(() => {}).push(frame('S', 'of the host'))).toThrow('carried no frame');
  });
});

function frame(type: string, text: string): Buffer {
  const bytes = Buffer.alloc(5 + Buffer.byteLength(text));
  bytes.write(type, 0);
  bytes.writeUInt32LE(Buffer.byteLength(text), 1);
  bytes.write(text, 5);
  return bytes;
}

describe("the machine's command line", () => {
  const options = {
    cpu: 'amd',
    kernel: '/k',
    initramfs: '/i',
    memory: 2 ** 30,
    cpus: 3,
    consoleFd: 3,
    portFd: 4,
  } as const;

  it('shares the root for reading only', () => {
    const args = qemuArguments({ ...options, writable: [] });
    expect(args.filter((argument) => argument.includes('path='))).toEqual([
      'local,path=/,mount_tag=root,security_model=none,multidevs=remap,readonly=on',
    ]);
    expect(args).toContain('1024M');
  });

  it('shares directories for writing by tag, in order, commas and all', () => {
    const args = qemuArguments({ ...options, writable: ['/a', '/b,readonly=on'] });
    expect(args).toContain('local,path=/a,mount_tag=writable0,security_model=none,multidevs=remap');
    expect(args).toContain('local,path=/b,,readonly=on,mount_tag=writable1,security_model=none,multidevs=remap');
    expect(escapeValue('a,b')).toBe('a,,b');
  });
});

describe("the way out of the lab's terminal", () => {
  async function typed(...chunks: number[][]): Promise<{ passed: number[]; quit: number }> {
    let quit = 0;
    const filter = new EscapeFilter(() => quit++);
    for (const chunk of chunks) filter.write(Buffer.from(chunk));
    filter.end();
    const passed: number[] = [];
    for await (const chunk of filter) passed.push(...(chunk as Buffer));
    return { passed, quit };
  }

  it('is Ctrl-] q, also over two reads', async () => {
    expect(await typed([97, ESCAPE, 113])).toEqual({ passed: [], quit: 1 });
    expect(await typed([97, ESCAPE], [113, 98])).toEqual({ passed: [97], quit: 1 });
  });

  it('leaves other keys alone', async () => {
    expect(await typed([3, ESCAPE, ESCAPE, 113, ESCAPE, 120])).toEqual({
      passed: [3, ESCAPE, 113, ESCAPE, 120],
      quit: 0,
    });
  });
});

describe('the initramfs', () => {
  it('is an archive with a trailer, padded to words', () => {
    const archive = writeCpio([{ name: 'init', mode: 0o100755, data: Buffer.from('hello') }]);
    expect(archive.length % 4).toBe(0);
    expect(archive.subarray(0, 110).toString()).toBe(
      `070701${'00000001000081ed0000000000000000000000010000000000000005'}${'0'.repeat(32)}${'0000000500000000'}`,
    );
    expect(archive.subarray(110, 121).toString()).toBe('init\0\0hello');
    expect(archive.toString('latin1')).toContain('TRAILER!!!');
  });
});
