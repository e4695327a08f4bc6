// What the tables of lib/abi claim, as C expressions, and what a compiler says about them with a given set of headers.
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as abi from '../../lib/abi/index.ts';
import type { List, Struct } from '../../lib/abi/index.ts';

export interface Claim {
  /** `KVM_GET_REGS`, `sizeof kvm_regs`, `kvm_regs.rip` (offset) or `kvm_regs.rip size`. */
  readonly name: string;
  readonly expression: string;
  readonly expected: bigint;
}

/** Numbers that are ours and not the kernel's. */
const OWN = new Set(['KVM_RUN_SIZE']);

/** Every number of lib/abi that the kernel's headers have a name for. */
export function claims(): Claim[] {
  const found = new Map<string, Claim>();
  const add = (name: string, expression: string, expected: number | bigint): void => {
    found.set(`${name} ${expected}`, { name, expression, expected: BigInt(expected) });
  };
  for (const [name, value] of Object.entries(abi)) {
    if ((typeof value === 'number' || typeof value === 'bigint') && !OWN.has(name)) add(name, name, value);
    if (isStruct(value)) addStruct(add, value);
    if (isList(value)) {
      const type = `struct ${value.cName}`;
      add(`${value.cName}.${value.countName}`, `offsetof(${type}, ${value.countName})`, 0);
      add(`${value.cName}.${value.countName} size`, `sizeof(((${type} *)0)->${value.countName})`, 4);
      add(`${value.cName}.${value.entriesName}`, `offsetof(${type}, ${value.entriesName})`, value.headerSize);
      addStruct(add, value.entry);
    }
  }
  for (const [name, value] of Object.entries({ ...abi.CAPS, ...abi.EXIT_REASONS })) add(name, name, value);
  return [...found.values()];
}

/** Every struct that lib/abi exports, by its export's name. */
export function structs(): [name: string, struct: Struct<abi.Fields>][] {
  return Object.entries(abi).flatMap(([name, value]) => (isStruct(value) ? [[name, value]] : []));
}

function isStruct(value: unknown): value is Struct<abi.Fields> {
  return typeof value === 'object' && value !== null && 'layout' in value;
}

function isList(value: unknown): value is List<abi.Fields> {
  return typeof value === 'object' && value !== null && 'entriesName' in value;
}

function addStruct(
  add: (name: string, expression: string, expected: number) => void,
  struct: Struct<abi.Fields>,
): void {
  const type = `struct ${struct.cName}`;
  add(`sizeof ${struct.cName}`, `sizeof(${type})`, struct.size);
  for (const { member, offset, size } of struct.layout()) {
    add(`${struct.cName}.${member}`, `offsetof(${type}, ${member})`, offset);
    add(`${struct.cName}.${member} size`, `sizeof(((${type} *)0)->${member})`, size);
  }
}

const PREAMBLE = [
  '#include <errno.h>',
  '#include <stddef.h>',
  '#include <stdio.h>',
  '#include <linux/kvm.h>',
  '#include <linux/kvm_para.h>',
  '',
].join('\n');

/**
 * What the headers say for each claim; a name that they do not have is missing from the result. One look at the syntax
 * alone, a line for each claim, finds those: unlike `#ifdef`, that works for enumerators, structs and members too.
 */
export async function ask(claims: readonly Claim[], includes: readonly string[]): Promise<Map<string, bigint>> {
  const directory = await mkdtemp(join(tmpdir(), 'node-kvm-abi-'));
  try {
    const source = join(directory, 'layout.c');
    const flags = ['-std=gnu11', ...includes.flatMap((include) => ['-isystem', include])];
    const write = (lines: readonly string[]): Promise<void> => writeFile(source, PREAMBLE + lines.join('\n'));

    await write([
      '#line 1 "claims"',
      ...claims.map(({ expression }, index) => `const unsigned long long v${index} = ${expression};`),
    ]);
    const probe = await run('cc', [...flags, '-fsyntax-only', '-fmax-errors=0', source]);
    const errors = probe.stderr.matchAll(/^claims:(\d+):\d+: error/gm);
    const missing = new Set([...errors].map((match) => Number(match[1]) - 1));
    if (probe.code !== 0 && missing.size === 0) throw new Error(`The probe did not compile:\n${probe.stderr}`);

    const there = claims.filter((_, index) => !missing.has(index));
    await write([
      'int main(void) {',
      ...there.map(({ expression }) => `  printf("%llu\\n", (unsigned long long)(${expression}));`),
      '  return 0;',
      '}',
      '',
    ]);
    const program = join(directory, 'layout');
    const compiled = await run('cc', [...flags, '-o', program, source]);
    if (compiled.code !== 0) throw new Error(`The layout program did not compile:\n${compiled.stderr}`);
    const { stdout } = await run(program, []);
    const values = stdout.trim().split('\n').map(BigInt);
    return new Map(there.map(({ name, expected }, index) => [`${name} ${expected}`, values[index]!]));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

export function keyOf({ name, expected }: Claim): string {
  return `${name} ${expected}`;
}

/** What is missing to ask at all: the compiler, the system's <linux/kvm.h>, or nothing. */
export async function missingTool(needsSystemHeaders: boolean): Promise<'cc' | 'headers' | undefined> {
  const version = await run('cc', ['--version']).catch(() => ({ code: 1 }));
  if (version.code !== 0) return 'cc';
  if (!needsSystemHeaders) return undefined;
  const result = await run('cc', ['-fsyntax-only', '-x', 'c', '-include', 'linux/kvm.h', '/dev/null']);
  return result.code === 0 ? undefined : 'headers';
}

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(command: string, args: readonly string[]): Promise<Result> {
  return new Promise((resolve, reject) => {
    // The messages of the compiler are parsed, so they had better be in English.
    const child = spawn(command, args, { env: { ...process.env, LC_ALL: 'C' }, stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}
