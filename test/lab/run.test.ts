// The lab itself, with real machines. Each test boots one: a few seconds.
import { mkdtempSync, readFileSync, rmSync, writeFileSync, existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findLab, runInLab, type RunInLabOptions, type RunInLabResult } from '../../lib/lab/index.ts';

const unbuilt = findLab() === undefined && !(process.env['NODE_KVM_REQUIRE'] ?? '').includes('lab');

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'node-kvm-lab-'));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

class Collector extends Writable {
  readonly chunks: Buffer[] = [];

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.chunks.push(chunk);
    done();
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString();
  }
}

async function run(options: RunInLabOptions): Promise<RunInLabResult & { out: string; err: string }> {
  const [stdout, stderr] = [new Collector(), new Collector()];
  const result = await runInLab({ memory: '1G', timeoutMs: 90_000, stdout, stderr, ...options });
  return { ...result, out: stdout.text, err: stderr.text };
}

describe.skipIf(unbuilt)('the lab (needs: npx node-kvm lab build)', () => {
  it('gives both streams and the exit code of a command', async () => {
    const { out, err, exitCode, signal } = await run({ argv: ['sh', '-c', 'echo out; echo "$1" >&2; exit 7', 'sh', 'a  "b" $c'] });
    expect({ out, err, exitCode, signal }).toEqual({ out: 'out\n', err: 'a  "b" $c\n', exitCode: 7, signal: undefined });
  });

  it('gives the signal that ended a command', async () => {
    expect(await run({ argv: ['sh', '-c', 'kill -KILL $$'] })).toMatchObject({ exitCode: 137, signal: 'SIGKILL' });
  });

  it('says that there is no such command', async () => {
    expect(await run({ argv: ['no-such-command'] })).toMatchObject({ exitCode: 127, err: 'lab: cannot run no-such-command: No such file or directory\n' });
  });

  it('has KVM with private memory, the directory and the environment of the caller', async () => {
    const script = 'import fcntl, os, sys\nkvm = os.open("/dev/kvm", os.O_RDWR)\n' +
      'print([fcntl.ioctl(kvm, 0xAE03, cap) for cap in (233, 234, 235, 236)], os.getcwd(), os.environ["X"], os.environ["NODE_KVM_LAB"])';
    const { out, exitCode } = await run({ argv: ['python3', '-c', script], cwd: scratch, env: { X: 'y' } });
    expect({ out, exitCode }).toEqual({ out: `[8, 1, 3, 1] ${scratch} y 1\n`, exitCode: 0 });
  });

  it('loses nothing of what goes in and out, however slow the reader', async () => {
    const bytes = Buffer.alloc(3_000_001, 'node-kvm ');
    let received = 0;
    const stdout = new Writable({
      highWaterMark: 1024,
      write(chunk: Buffer, _encoding, done) {
        if (!chunk.equals(bytes.subarray(received, received + chunk.length))) done(new Error(`wrong at ${received}`));
        received += chunk.length;
        setTimeout(done, 1);
      },
    });
    const { exitCode } = await run({ argv: ['cat'], stdin: Readable.from([bytes.subarray(0, 5), bytes.subarray(5)], { objectMode: false }), stdout });
    expect({ exitCode, received }).toEqual({ exitCode: 0, received: bytes.length });
  });

  it('does not wait for a command that leaves its stdin unread, nor for what that command left running', async () => {
    const stdin = new PassThrough();
    stdin.write(Buffer.alloc(2_000_000));
    const { exitCode, runMs } = await run({ argv: ['sh', '-c', 'sleep 60 & exit 4'], stdin });
    expect(exitCode).toBe(4);
    expect(runMs).toBeLessThan(20_000);
  });

  it('writes to the host only where it may', async () => {
    const writable = mkdtempSync(join(scratch, 'w,'));
    writeFileSync(join(scratch, 'kept'), 'before');
    const script = `echo lab > ${scratch}/kept; cat ${scratch}/kept; echo lab > '${writable}/new'; mv '${writable}/new' '${writable}/moved'; echo x > /etc/node-kvm-lab`;
    expect(await run({ argv: ['sh', '-ec', script], writable: [writable] })).toMatchObject({ out: 'lab\n', err: '', exitCode: 0 });
    expect(readFileSync(join(scratch, 'kept'), 'utf8')).toBe('before');
    expect(readFileSync(join(writable, 'moved'), 'utf8')).toBe('lab\n');
    expect(existsSync('/etc/node-kvm-lab')).toBe(false);
  });

  it('reports a panic with the console\'s last lines', async () => {
    const failure = await run({ argv: ['sh', '-c', 'echo c > /proc/sysrq-trigger'] }).then(() => undefined, (error: unknown) => error);
    expect(failure).toMatchObject({ code: 'ERR_KVM_LAB_MACHINE' });
    expect((failure as { lines: string[] }).lines.join('\n')).toContain('Kernel panic');
  });

  it('ends when the time is over and when it is aborted', async () => {
    await expect(run({ argv: ['sleep', '60'], timeoutMs: 4000 })).rejects.toMatchObject({ code: 'ERR_KVM_LAB_TIMEOUT' });
    const reason = new Error('enough');
    await expect(run({ argv: ['sleep', '60'], signal: AbortSignal.timeout(3000) })).rejects.toMatchObject({ name: 'TimeoutError' });
    await expect(run({ argv: ['sleep', '60'], signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  it('passes signals on to the command', async () => {
    const onReady: RunInLabOptions['onReady'] = (control) => void setTimeout(() => control.kill('SIGTERM'), 2000);
    expect(await run({ argv: ['sh', '-c', 'trap "echo bye; exit 3" TERM; sleep 60 & wait'], onReady })).toMatchObject({ out: 'bye\n', exitCode: 3 });
  });

  it('gives a terminal with a size', async () => {
    const { out, exitCode } = await run({ argv: ['sh', '-c', 'stty size; tty'], terminal: { rows: 33, columns: 99 } });
    expect({ out, exitCode }).toEqual({ out: '33 99\r\n/dev/pts/0\r\n', exitCode: 0 });
  });

  it('sets huge pages aside', async () => {
    const { out } = await run({ argv: ['sh', '-c', 'grep HugePages_Total /proc/meminfo; findmnt -no fstype /dev/hugepages'], hugePages: 16 });
    expect(out).toMatch(/HugePages_Total: +16\nhugetlbfs\n/);
  });
});

const built = resolve(import.meta.dirname, '../../dist/lab/index.js');

describe.skipIf(unbuilt || !existsSync(built))('the lab\'s machine (needs the lab, and dist/ built)', () => {
  it('is gone when its parent is killed', { timeout: 60_000 }, async () => {
    const { spawn } = await import('node:child_process');
    const program = `const { runInLab } = await import(${JSON.stringify(built)});
      await runInLab({ argv: ['sh', '-c', 'echo up; sleep 1000'], memory: '1G', stdout: process.stdout });`;
    const parent = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise((up) => parent.stdout.once('data', up));
    const [qemu] = readFileSync(`/proc/${parent.pid}/task/${parent.pid}/children`, 'utf8').trim().split(' ');
    expect(readFileSync(`/proc/${qemu}/comm`, 'utf8')).toContain('qemu');
    parent.kill('SIGKILL');
    // Would go on until the test's time is over.
    while (isAlive(qemu!)) await new Promise((later) => setTimeout(later, 20));
  });
});

/** A zombie is dead: only its parent has not looked yet. */
function isAlive(pid: string): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
