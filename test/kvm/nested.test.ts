import { describe, expect } from 'vitest';
import { kvmNestedState } from '../../lib/abi/index.ts';
import { HLT, realMode } from './vcpu-guest.ts';
import { kvmTest } from './support.ts';

describe('nested state', () => {
  kvmTest('is got and set', { needs: ['KVM_CAP_NESTED_STATE'] }, () => {
    const { kvm, vcpu } = realMode([HLT]);
    vcpu.setCpuid2(kvm.getSupportedCpuid());
    const state = vcpu.getNestedState();
    expect(kvmNestedState.decode(state).size).toBe(state.length);
    vcpu.setNestedState(state);
    expect(vcpu.getNestedState()).toEqual(state);
  });

  kvmTest('refuses bytes that are no state', () => {
    const { vcpu } = realMode([HLT]);
    expect(() => vcpu.setNestedState(new Uint8Array(127))).toThrow(/at least 128 bytes/);
    expect(() => vcpu.setNestedState(new Uint8Array(128))).toThrow(/size field from 128 to 128/);
    const tooLong = new Uint8Array(128);
    new DataView(tooLong.buffer).setUint32(4, 4224, true);
    expect(() => vcpu.setNestedState(tooLong)).toThrow(RangeError);
  });
});
