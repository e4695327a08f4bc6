// Every number and offset of lib/abi against the kernel's own headers: the system's, and the newest at hand.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { ask, claims, keyOf, missingTool } from './c-layout.ts';

// Names that no released header of the kernels we build has. Each is compared as soon as a header has it.
const NEWER_THAN_ANY_HEADER = [
  // 6.16: TDX
  'KVM_X86_TDX_VM',
  'KVM_EXIT_TDX',
  'KVM_SYSTEM_EVENT_TDX_FATAL',
  'kvm_run.tdx.',
  // 6.17
  'KVM_X86_DISABLE_EXITS_APERFMPERF',
  'KVM_X86_SNP_POLICY_BITS',
  // 6.18: guest_memfd that can be mapped
  'KVM_CAP_GUEST_MEMFD_FLAGS',
  'GUEST_MEMFD_FLAG_MMAP',
  'GUEST_MEMFD_FLAG_INIT_SHARED',
  // 6.19 and 7.0
  'KVM_EXIT_ARM_SEA',
  'KVM_EXIT_ARM_LDST64B',
  'KVM_EXIT_SNP_REQ_CERTS',
  'kvm_run.snp_req_certs.',
  // Proposed, not merged: conversion in place
  'KVM_SET_MEMORY_ATTRIBUTES2',
];

/** The include directory of the lab's kernel, or the one given in NODE_KVM_KERNEL_HEADERS. */
async function newestHeaders(): Promise<string | undefined> {
  const given = process.env['NODE_KVM_KERNEL_HEADERS'];
  if (given !== undefined && given !== '') return includeOf(given);
  // Imported by its path at run time, so that the comparison with the system's headers does not need the lab.
  const lab = join(import.meta.dirname, '../../lib/lab/index.ts');
  if (!existsSync(lab)) return undefined;
  const { labKernelHeaders } = (await import(lab)) as { labKernelHeaders?: () => string | undefined };
  const headers = labKernelHeaders?.();
  return headers === undefined ? undefined : includeOf(headers);
}

function includeOf(directory: string): string | undefined {
  return [directory, join(directory, 'include')].find((include) => existsSync(join(include, 'linux/kvm.h')));
}

const ours = claims();
const newest = await newestHeaders();
const sources = [
  { name: "the system's headers", includes: [] as string[], missing: 'linux-libc-dev' },
  {
    name: 'the newest kernel headers at hand',
    includes: newest === undefined ? undefined : [newest],
    missing: "the lab's kernel (npx node-kvm lab build) or NODE_KVM_KERNEL_HEADERS",
  },
];

describe.each(sources)('lib/abi and $name', ({ includes, missing }) => {
  let said: Map<string, bigint> | undefined;
  let skip = '';

  beforeAll(async () => {
    const tool = await missingTool(includes?.length === 0);
    if (tool === 'cc') skip = 'needs a C compiler (cc)';
    else if (tool === 'headers' || includes === undefined) skip = `needs ${missing}`;
    else said = await ask(ours, includes);
  });

  test('agree on every number, size and offset that the headers have', ({ skip: skipTest }) => {
    if (said === undefined) return skipTest(skip);
    const differing = ours.flatMap((claim) => {
      const value = said!.get(keyOf(claim));
      if (value === undefined || value === claim.expected) return [];
      return [`${claim.name}: ${claim.expected} here, ${value} there`];
    });
    expect(differing).toEqual([]);
    const absent = ours.filter((claim) => !said!.has(keyOf(claim))).map(({ name }) => name);
    console.log(`${said.size} of ${ours.length} compared. Not in these headers: ${summary(absent)}`);
    expect(said.size).toBeGreaterThan(500);
  });
});

test('every name is in some header, or known to be newer than all of them', async ({ skip }) => {
  const tool = await missingTool(true);
  if (tool === 'cc') return skip('needs a C compiler (cc)');
  if (newest === undefined) return skip(`needs ${sources[1]!.missing}`);
  const inSystem = tool === undefined ? await ask(ours, []) : new Map<string, bigint>();
  const inNewest = await ask(ours, [newest]);
  const nowhere = ours.filter((claim) => !inSystem.has(keyOf(claim)) && !inNewest.has(keyOf(claim)));
  const unknown = nowhere.filter(
    ({ name }) =>
      !NEWER_THAN_ANY_HEADER.some((known) => (known.endsWith('.') ? name.startsWith(known) : name === known)),
  );
  expect(unknown.map(({ name }) => name)).toEqual([]);
});

// A struct that is not there at all as one word: the list is long with old headers.
function summary(names: readonly string[]): string {
  const structs = new Set(names.flatMap((name) => (name.startsWith('sizeof ') ? [name.slice(7)] : [])));
  const rest = names
    .map((name) => name.replace(/^sizeof | size$/g, ''))
    .map((name) => (structs.has(name.split('.')[0]!) ? name.split('.')[0]! : name));
  return [...new Set(rest)].join(', ') || 'none';
}
