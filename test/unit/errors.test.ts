import { describe, expect, test } from 'vitest';
import {
  assertNever,
  KvmError,
  KvmFirmwareError,
  KvmGuestError,
  KvmStateError,
  KvmSystemError,
  KvmUnsupportedError,
  wrapSystemError,
} from '../../lib/errors.ts';

function nativeError(code: string, errno: number, syscall: string): Error {
  return Object.assign(new Error(`${syscall}: ${code}`), { code, errno, syscall });
}

describe('the classes', () => {
  test.each([
    [new KvmError('x', 'ERR_X'), 'KvmError', 'ERR_X'],
    [new KvmSystemError('x', { code: 'EINVAL', errno: -22, syscall: 'mmap' }), 'KvmSystemError', 'EINVAL'],
    [new KvmUnsupportedError('x', 'KVM_CAP_GUEST_MEMFD'), 'KvmUnsupportedError', 'ERR_KVM_UNSUPPORTED'],
    [new KvmStateError('x'), 'KvmStateError', 'ERR_KVM_STATE'],
    [new KvmStateError('x', 'ERR_KVM_CLOSED'), 'KvmStateError', 'ERR_KVM_CLOSED'],
    [new KvmGuestError('x', { exit: { reason: 'shutdown' } }), 'KvmGuestError', 'ERR_KVM_GUEST'],
    [new KvmFirmwareError('x', 0x17n), 'KvmFirmwareError', 'ERR_KVM_FIRMWARE'],
  ])('%s', (error, name, code) => {
    expect(error).toBeInstanceOf(KvmError);
    expect(error).toBeInstanceOf(Error);
    expect(error.name).toBe(name);
    expect(error.code).toBe(code);
    expect(Object.keys(error)).not.toContain('name');
    expect(Object.hasOwn(error, 'cause')).toBe(false);
    expect(error.stack).toMatch(new RegExp(`^${name}: x`));
  });

  test('keep what they are given', () => {
    const cause = new Error('why');
    expect(new KvmUnsupportedError('x', 'addon', { cause })).toMatchObject({ capability: 'addon', cause });
    const guest = { exit: 1, registers: { rip: 2n }, cause };
    expect(new KvmGuestError('x', guest)).toMatchObject(guest);
    expect(new KvmFirmwareError('x', 0x17n)).toMatchObject({ status: 0x17n });
  });
});

describe('wrapSystemError', () => {
  test('says what failed, what was tried and why it may be', () => {
    const cause = nativeError('EINVAL', -22, 'KVM_SET_USER_MEMORY_REGION2');
    const state = 'slot 3, gpa 0x1000, size 4096';
    const error = wrapSystemError(cause, { state, hint: 'the range is bound already.' });
    expect(error).toBeInstanceOf(KvmSystemError);
    expect(error).toMatchObject({
      code: 'EINVAL',
      errno: -22,
      syscall: 'KVM_SET_USER_MEMORY_REGION2',
      hint: 'the range is bound already.',
      cause,
      message:
        'KVM_SET_USER_MEMORY_REGION2 failed: EINVAL (Invalid argument): slot 3, gpa 0x1000, size 4096. ' +
        'Likely cause: the range is bound already.',
    });
  });

  test('takes another beginning', () => {
    const error = wrapSystemError(nativeError('EEXIST', -17, 'KVM_CREATE_IRQCHIP'), { message: 'Making the irqchip' });
    expect(error).toMatchObject({
      message: 'Making the irqchip failed: KVM_CREATE_IRQCHIP: EEXIST (File exists)',
      hint: undefined,
    });
  });

  test('knows errnos that libuv does not', () => {
    expect(wrapSystemError(nativeError('EHWPOISON', -133, 'KVM_RUN'))).toMatchObject({
      message: 'KVM_RUN failed: EHWPOISON (Memory page has hardware error)',
    });
    expect(wrapSystemError(nativeError('E999', -999, 'KVM_RUN'))).toMatchObject({
      message: 'KVM_RUN failed: E999 (errno 999)',
    });
  });

  test('makes state errors of the addon into KvmStateError', () => {
    const cause = Object.assign(new Error('The vCPU is closed'), { code: 'ERR_KVM_CLOSED' });
    const error = wrapSystemError(cause);
    expect(error).toBeInstanceOf(KvmStateError);
    expect(error).toMatchObject({ code: 'ERR_KVM_CLOSED', message: 'The vCPU is closed', cause });
  });

  test.each([
    [new TypeError('x')],
    [new KvmStateError('x')],
    ['text'],
    [undefined],
    [Object.assign(new Error('x'), { code: 'ERR_Y' })],
  ])('passes %s through', (other) => {
    expect(wrapSystemError(other)).toBe(other);
  });
});

test('assertNever names the value', () => {
  expect(() => assertNever({ reason: 'new', gpa: 1n } as never, 'exit')).toThrow(
    'Unexpected exit: {"reason":"new","gpa":"1n"}',
  );
  expect(() => assertNever(7n as never)).toThrow(KvmError);
});
