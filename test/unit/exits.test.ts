import { describe, expect, it } from 'vitest';
import { EXIT_REASONS, KVM_RUN_SIZE } from '../../lib/abi/index.ts';
import { ExitDecoder } from '../../lib/kvm/exits/decode.ts';
import { exitCodes, leavesPendingWork } from '../../lib/kvm/exits/reasons.ts';
import type { VcpuExit, VcpuExitOf, VcpuExitReason } from '../../lib/kvm/exits/types.ts';
import { KvmGuestError } from '../../lib/errors.ts';

const MAPPING = 3 * 4096;

/** A kvm_run mapping with `words` (width, offset, value) written into it, and its decoder. */
function mapping(...words: [8 | 16 | 32 | 64, number, number | bigint][]) {
  const run = new ArrayBuffer(MAPPING);
  const view = new DataView(run);
  for (const [width, offset, value] of words) {
    if (width === 8) view.setUint8(offset, Number(value));
    else if (width === 16) view.setUint16(offset, Number(value), true);
    else if (width === 32) view.setUint32(offset, Number(value), true);
    else view.setBigUint64(offset, BigInt.asUintN(64, BigInt(value)), true);
  }
  return { run, view, bytes: new Uint8Array(run), decoder: new ExitDecoder(run) };
}

type Words = Parameters<typeof mapping>;

function decode<R extends VcpuExitReason>(reason: R, code: number, ...words: Words): VcpuExitOf<R> {
  const exit: VcpuExit = mapping(...words).decoder.decode(code);
  expect(exit.reason).toBe(reason);
  return exit as VcpuExitOf<R>;
}

describe('port exits', () => {
  const out = (size: number, count: number, offset = 4096): Words => [
    [8, 32, 1],
    [8, 33, size],
    [16, 34, 0x3f8],
    [32, 36, count],
    [64, 40, offset],
  ];

  it('are decoded', () => {
    const { decoder, view } = mapping(...out(2, 1));
    view.setUint16(4096, 0xbeef, true);
    expect(decoder.decode(2)).toEqual({
      reason: 'io',
      direction: 'out',
      port: 0x3f8,
      size: 2,
      count: 1,
      data: new Uint8Array([0xef, 0xbe]),
    });
  });

  it('have live data, on the same memory every time', () => {
    const { decoder, bytes, view } = mapping(...out(1, 1));
    view.setUint8(32, 0);
    const exit = decoder.decode(2) as VcpuExitOf<'io'>;
    expect(exit.direction).toBe('in');
    exit.data[0] = 0x42;
    expect(bytes[4096]).toBe(0x42);
    expect((decoder.decode(2) as VcpuExitOf<'io'>).data).toBe(exit.data);
  });

  it('of string instructions have the data of all repetitions', () => {
    expect(decode('io', 2, ...out(4, 1024)).data.length).toBe(4096);
    expect(decode('io', 2, ...out(4, 2)).data.length).toBe(8);
    expect(decode('io', 2, ...out(4, 3)).data.length).toBe(12);
  });

  it('may have their data elsewhere in the mapping', () => {
    const exit = decode('io', 2, ...out(1, 1, 8192));
    expect(exit.data.byteOffset).toBe(8192);
  });

  it.each([
    ['an offset beyond the end', 1, 1, MAPPING],
    ['a count beyond the end', 4, 4096, 4096],
    ['the largest count', 4, 0xffff_ffff, 4096],
  ])('refuse %s', (_what, size, count, offset) => {
    expect(() => mapping(...out(size, count, offset)).decoder.decode(2)).toThrow(KvmGuestError);
  });

  it('refuse an offset of 64 bits', () => {
    const { decoder, view } = mapping(...out(1, 1));
    view.setBigUint64(40, (1n << 32n) | 4096n, true);
    expect(() => decoder.decode(2)).toThrow(/outside the kvm_run mapping of 12288 bytes/);
  });
});

describe('MMIO exits', () => {
  it('are decoded', () => {
    const exit = decode('mmio', 6, [64, 32, 0xfee0_0020n], [64, 40, 0x1122_3344_5566_7788n], [32, 48, 4], [8, 52, 1]);
    expect(exit).toEqual({
      reason: 'mmio',
      direction: 'write',
      gpa: 0xfee0_0020n,
      data: new Uint8Array([0x88, 0x77, 0x66, 0x55]),
    });
  });

  it('are answered in place', () => {
    const { decoder, view } = mapping([32, 48, 8]);
    const exit = decoder.decode(6) as VcpuExitOf<'mmio'>;
    expect(exit.direction).toBe('read');
    exit.data.set([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(view.getBigUint64(40, true)).toBe(0x0807_0605_0403_0201n);
  });

  it.each([9, 4096, 0xffff_ffff])('refuse %d bytes', (length) => {
    expect(() => mapping([32, 48, length]).decoder.decode(6)).toThrow(/limit is 8/);
  });
});

describe('memory faults', () => {
  const words: Words = [
    [64, 32, 8],
    [64, 40, 1n << 51n],
    [64, 48, 4096],
  ];

  it('come with the errno of the failing return', () => {
    expect(decode('memory-fault', 39 | (14 << 16), ...words)).toEqual({
      reason: 'memory-fault',
      gpa: 1n << 51n,
      size: 4096n,
      flags: 8n,
      private: true,
      errno: 'EFAULT',
    });
    expect(decode('memory-fault', 39 | (133 << 16), ...words).errno).toBe('EHWPOISON');
  });

  it('keep flags that are not known', () => {
    const exit = decode('memory-fault', 39 | (14 << 16), [64, 32, 0x17n]);
    expect(exit).toMatchObject({ flags: 0x17n, private: false });
  });

  it('are not believed without one', () => {
    expect(decode('unknown', 39, ...words)).toEqual({ reason: 'unknown', code: 39 });
  });
});

describe('hypercall exits', () => {
  const words: Words = [
    [64, 32, 12],
    [64, 40, 0x1000],
    [64, 48, 2],
    [64, 56, 16],
    [64, 64, 4],
    [64, 72, 5],
    [64, 80, 6],
    [64, 88, 0x77],
    [64, 96, 1],
  ];

  it('are decoded', () => {
    expect(decode('hypercall', 3, ...words)).toMatchObject({
      nr: 12,
      args: [0x1000n, 2n, 16n, 4n, 5n, 6n],
      flags: 1n,
      longMode: true,
    });
  });

  it('have their result preset, and written in place', () => {
    const { decoder, view } = mapping(...words);
    const exit = decoder.decode(3) as VcpuExitOf<'hypercall'>;
    expect(view.getBigInt64(88, true)).toBe(-1000n);
    exit.ret[0] = -22n;
    expect(view.getBigInt64(88, true)).toBe(-22n);
    decoder.decode(3);
    expect(exit.ret[0]).toBe(-1000n);
  });
});

describe('MSR exits', () => {
  it.each([
    [1, 'invalid'],
    [2, 'unknown'],
    [4, 'filter'],
    [8, 'unknown'],
  ] as const)('for cause %d', (bits, cause) => {
    const exit = decode('wrmsr', 30, [32, 40, bits], [32, 44, 0xc000_0080], [64, 48, 0xd01]);
    expect(exit).toMatchObject({ index: 0xc000_0080, cause, causeBits: bits });
    expect(exit.data[0]).toBe(0xd01n);
  });

  it('are answered in place', () => {
    const { decoder, view } = mapping([32, 40, 4]);
    const exit = decoder.decode(29) as VcpuExitOf<'rdmsr'>;
    exit.data[0] = ~0n;
    exit.error[0] = 1;
    expect(view.getBigUint64(48, true)).toBe(0xffff_ffff_ffff_ffffn);
    expect(view.getBigUint64(32, true)).toBe(1n);
  });
});

describe('internal errors', () => {
  it.each([
    [1, 'emulation'],
    [2, 'simultaneous-exception'],
    [3, 'delivery-event'],
    [4, 'unexpected-exit'],
    [99, 'unknown'],
  ] as const)('name suberror %d', (code, suberror) => {
    expect(decode('internal-error', 17, [32, 32, code])).toEqual({
      reason: 'internal-error',
      suberror,
      code,
      data: [],
      instruction: undefined,
    });
  });

  it('give the instruction that could not be emulated', () => {
    const exit = decode(
      'internal-error',
      17,
      [32, 32, 1],
      [32, 36, 3],
      [64, 40, 1],
      [8, 48, 2],
      [8, 49, 0x0f],
      [8, 50, 0x0b],
      [8, 51, 0x90],
    );
    expect(exit.instruction).toEqual(new Uint8Array([0x0f, 0x0b]));
    expect(exit.data.length).toBe(3);
  });

  it.each([
    ['without the flag', 3, 0, 2],
    ['without the words', 2, 1, 2],
  ])('give none %s', (_what, ndata, flags, size) => {
    const exit = decode('internal-error', 17, [32, 32, 1], [32, 36, ndata], [64, 40, flags], [8, 48, size]);
    expect(exit.instruction).toBeUndefined();
  });

  it('never read more than 16 words or 15 bytes', () => {
    const exit = decode('internal-error', 17, [32, 32, 1], [32, 36, 0xffff_ffff], [64, 40, 1], [8, 48, 255]);
    expect(exit.data.length).toBe(16);
    expect(exit.instruction?.length).toBe(15);
  });
});

describe('system events', () => {
  it.each([
    [1, 'shutdown'],
    [2, 'reset'],
    [3, 'crash'],
    [4, 'wakeup'],
    [5, 'suspend'],
    [6, 'sev-term'],
    [7, 'tdx-fatal'],
    [0, 'unknown'],
    [8, 'unknown'],
  ] as const)('name type %d', (type, typeName) => {
    expect(decode('system-event', 24, [32, 32, type], [32, 36, 1], [64, 40, 0x100])).toEqual({
      reason: 'system-event',
      type,
      typeName,
      data: [0x100n],
    });
  });
});

describe('exits that ask for an answer', () => {
  it('preset the one of TDX', () => {
    const { decoder, view } = mapping([64, 40, 0x10002], [64, 56, 0x5000], [64, 64, 4096]);
    const exit = decoder.decode(40) as VcpuExitOf<'tdx'>;
    expect(exit).toMatchObject({ nr: 0x10002, flags: 0n });
    expect([...exit.data]).toEqual([0x5000n, 4096n, 0n, 0n, 0n]);
    expect(view.getBigUint64(48, true)).toBe(0x8000_0000_0000_0003n);
    exit.ret[0] = 0n;
    expect(view.getBigUint64(48, true)).toBe(0n);
  });

  it('preset the one of SNP certificates', () => {
    const { decoder, view } = mapping([64, 32, 0x7000], [64, 40, 1]);
    const exit = decoder.decode(43) as VcpuExitOf<'snp-req-certs'>;
    expect(exit.gpa).toBe(0x7000n);
    expect(view.getBigUint64(48, true)).toBe(5n);
    exit.npages[0] = 3n;
    exit.ret[0] = 28n;
    expect(view.getBigUint64(40, true)).toBe(3n);
    expect(view.getBigUint64(48, true)).toBe(28n);
  });

  it('preset the ones of Hyper-V and Xen hypercalls', () => {
    const { decoder, view } = mapping([32, 32, 2], [64, 40, 0x5c], [64, 48, 7], [64, 56, 11]);
    const hyperv = decoder.decode(27) as VcpuExitOf<'hyperv'>;
    expect(hyperv).toMatchObject({ type: 2, typeName: 'hypercall' });
    expect([...hyperv.data.subarray(0, 3)]).toEqual([0x5cn, 2n, 11n]);
    view.setUint32(32, 1, true);
    view.setUint32(40, 1, true);
    view.setUint32(44, 3, true);
    view.setBigUint64(48, 29n, true);
    view.setBigUint64(104, 66n, true);
    const xen = decoder.decode(34) as VcpuExitOf<'xen'>;
    expect(xen).toMatchObject({ type: 1, longMode: true, cpl: 3, input: 29n, params: [0n, 0n, 0n, 0n, 0n, 66n] });
    expect(view.getBigInt64(56, true)).toBe(-38n);
  });

  it('leave the ones that KVM presets', () => {
    const { decoder, view } = mapping([32, 32, 1], [64, 48, 7]);
    decoder.decode(27);
    expect(view.getBigUint64(48, true)).toBe(7n);
  });
});

describe('the other exits', () => {
  it.each<[number, VcpuExit, ...Words]>([
    [0, { reason: 'unknown-exit', hardwareExitReason: 1n << 63n }, [64, 32, 1n << 63n]],
    [1, { reason: 'exception', exception: 14, errorCode: 2 }, [32, 32, 14], [32, 36, 2]],
    [
      4,
      { reason: 'debug', exception: 1, pc: 0x1000n, dr6: 0x4000n, dr7: 0x400n },
      [32, 32, 1],
      [64, 40, 0x1000],
      [64, 48, 0x4000],
      [64, 56, 0x400],
    ],
    [5, { reason: 'hlt' }],
    [7, { reason: 'irq-window-open' }],
    [8, { reason: 'shutdown' }],
    [
      9,
      { reason: 'fail-entry', hardwareEntryFailureReason: 0x8000_0021n, cpu: 3 },
      [64, 32, 0x8000_0021n],
      [32, 40, 3],
    ],
    [10, { reason: 'interrupted', cause: 'signal' }],
    [11, { reason: 'set-tpr', cr8: 5n }, [64, 16, 5]],
    [12, { reason: 'tpr-access', rip: 0x8000n, write: true }, [64, 32, 0x8000], [32, 40, 1]],
    [26, { reason: 'ioapic-eoi', vector: 0x31 }, [8, 32, 0x31]],
    [31, { reason: 'dirty-ring-full' }],
    [32, { reason: 'ap-reset-hold' }],
    [33, { reason: 'bus-lock' }],
    [37, { reason: 'notify', flags: 1, contextInvalid: true }, [32, 32, 1]],
    [44, { reason: 'unknown', code: 44 }],
    [0x7fff_ffff, { reason: 'unknown', code: 0x7fff_ffff }],
  ])('%d', (code, expected, ...words) => {
    expect(mapping(...words).decoder.decode(code)).toEqual(expected);
  });

  it.each([13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 25, 28, 35, 36, 38, 41, 42])(
    'of other architectures, %d, keep their number',
    (code) => {
      expect(mapping().decoder.decode(code)).toEqual({ reason: 'unknown', code });
    },
  );
});

describe('the table of reasons', () => {
  it('has one for every exit of x86', () => {
    const elsewhere = /S390|PAPR|OSI|EPR|DCR|WATCHDOG|RISCV|ARM|LOONGARCH|NMI$|INTR$/;
    const wanted = Object.entries(EXIT_REASONS)
      .filter(([name]) => !elsewhere.test(name))
      .map(([, code]) => code);
    expect(Object.values(exitCodes).sort((a, b) => a - b)).toEqual(wanted.sort((a, b) => a - b));
  });

  it('agrees with the decoder', () => {
    for (const [reason, code] of Object.entries(exitCodes)) {
      const full = code === 39 ? 39 | (14 << 16) : code;
      expect(mapping().decoder.decode(full).reason).toBe(reason);
    }
  });

  it('knows which exits KVM finishes at the next run', () => {
    const pending = Object.entries(exitCodes)
      .filter(([, code]) => leavesPendingWork(code))
      .map(([reason]) => reason);
    expect(pending.sort()).toEqual([
      'bus-lock',
      'hypercall',
      'hyperv',
      'io',
      'mmio',
      'rdmsr',
      'snp-req-certs',
      'tdx',
      'wrmsr',
      'xen',
    ]);
    expect(leavesPendingWork(39 | (14 << 16))).toBe(false);
  });

  it('fits into kvm_run', () => {
    expect(() => new ExitDecoder(new ArrayBuffer(KVM_RUN_SIZE))).not.toThrow();
  });
});
