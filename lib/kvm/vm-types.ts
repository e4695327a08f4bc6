/** VM types by name and number: the argument of KVM_CREATE_VM. */
import {
  KVM_X86_DEFAULT_VM,
  KVM_X86_SEV_ES_VM,
  KVM_X86_SEV_VM,
  KVM_X86_SNP_VM,
  KVM_X86_SW_PROTECTED_VM,
  KVM_X86_TDX_VM,
} from '../abi/index.ts';
import { oneOf, u32 } from '../arguments.ts';

/** In the order of their numbers. */
const NUMBERS = {
  default: Number(KVM_X86_DEFAULT_VM),
  'sw-protected': Number(KVM_X86_SW_PROTECTED_VM),
  sev: Number(KVM_X86_SEV_VM),
  'sev-es': Number(KVM_X86_SEV_ES_VM),
  snp: Number(KVM_X86_SNP_VM),
  tdx: Number(KVM_X86_TDX_VM),
} as const;

/** A VM type by name: KVM_X86_*_VM in kebab-case. */
export type VmTypeName = keyof typeof NUMBERS;

export const VM_TYPE_NAMES = Object.keys(NUMBERS) as VmTypeName[];

/** The number of a VM type given as either. */
export function vmTypeNumber(type: VmTypeName | number): number {
  return typeof type === 'number' ? u32('type', type) : NUMBERS[oneOf('type', type, VM_TYPE_NAMES)];
}

/** The name of a VM type by the kernel's number. */
export function vmTypeName(type: number): VmTypeName | 'unknown' {
  return VM_TYPE_NAMES.find((name) => NUMBERS[name] === type) ?? 'unknown';
}
