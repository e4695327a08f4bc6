import { describe, expect, it } from 'vitest';
import {
  accessValue,
  accessValue64,
  answerHypercall,
  answerMsr,
  answerRead,
  copyExit,
  isRead,
  refuseMsr,
} from '../../lib/kvm/exits/answer.ts';
import type { HypercallExit, IoExit, MmioExit, RdmsrExit } from '../../lib/kvm/exits/types.ts';

const io = (direction: IoExit['direction'], size: number, ...bytes: number[]): IoExit => ({
  reason: 'io',
  direction,
  port: 0x60,
  size,
  count: bytes.length / size,
  data: new Uint8Array(bytes),
});
const mmio = (direction: MmioExit['direction'], ...bytes: number[]): MmioExit => ({
  reason: 'mmio',
  direction,
  gpa: 0x1000n,
  data: new Uint8Array(bytes),
});

describe('what the guest wrote', () => {
  it('is read as a number', () => {
    expect(accessValue(io('out', 1, 0x41))).toBe(0x41);
    expect(accessValue(io('out', 4, 1, 2, 3, 0x84))).toBe(0x8403_0201);
    expect(accessValue(mmio('write', 0x34, 0x12))).toBe(0x1234);
  });

  it('is that of the first repetition', () => {
    expect(accessValue(io('out', 2, 1, 0, 2, 0))).toBe(1);
  });

  it('is read as a bigint where it is wide', () => {
    expect(accessValue64(mmio('write', 1, 0, 0, 0, 0, 0, 0, 0x80))).toBe(0x8000_0000_0000_0001n);
    expect(() => accessValue(mmio('write', 1, 2, 3, 4, 5, 6, 7, 8))).toThrow(RangeError);
  });
});

describe('answers', () => {
  it('go to reads, little-endian and cut to the width', () => {
    const exit = mmio('read', 0xff, 0xff);
    answerRead(exit, 0x12345);
    expect([...exit.data]).toEqual([0x45, 0x23]);
    const wide = mmio('read', 0, 0, 0, 0, 0, 0, 0, 0);
    answerRead(wide, -2n);
    expect([...wide.data]).toEqual([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
  });

  it('go to every repetition', () => {
    const exit = io('in', 2, 0, 0, 0, 0, 0, 0);
    answerRead(exit, 0x0201);
    expect([...exit.data]).toEqual([1, 2, 1, 2, 1, 2]);
  });

  it('do not go to writes', () => {
    expect(isRead(io('out', 1, 0))).toBe(false);
    expect(() => answerRead(io('out', 1, 0), 1)).toThrow(TypeError);
    expect(() => answerRead(mmio('write', 0), 1)).toThrow(/exit that reads/);
  });

  it('go to hypercalls and MSRs', () => {
    const hypercall = { reason: 'hypercall', ret: new BigInt64Array(1) } as unknown as HypercallExit;
    answerHypercall(hypercall, -22n);
    expect(hypercall.ret[0]).toBe(-22n);
    answerHypercall(hypercall);
    expect(hypercall.ret[0]).toBe(0n);
    const rdmsr = { reason: 'rdmsr', error: new Uint8Array([1]), data: new BigUint64Array(1) } as unknown as RdmsrExit;
    answerMsr(rdmsr, 5n);
    expect([rdmsr.data[0], rdmsr.error[0]]).toEqual([5n, 0]);
    refuseMsr(rdmsr);
    expect(rdmsr.error[0]).toBe(1);
  });
});

it('copies an exit with its views', () => {
  const exit = mmio('write', 1, 2);
  const copy = copyExit(exit);
  exit.data[0] = 9;
  expect(copy).toEqual(mmio('write', 1, 2));
});
