import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const lib = resolve(import.meta.dirname, '../../lib');

/** What each room of lib/ may import from, besides itself. docs/architecture.md draws it. */
const everyone = ['errors.ts', 'arguments.ts', 'abi'];
const allowed: Record<string, readonly string[]> = {
  'errors.ts': ['abi'],
  'arguments.ts': ['errors.ts'],
  abi: ['errors.ts', 'arguments.ts'],
  'native.ts': ['errors.ts'],
  'format.ts': ['errors.ts'],
  'terminal.ts': [],
  kvm: [...everyone, 'native.ts'],
  memory: [...everyone, 'kvm'],
  boot: [...everyone, 'format.ts', 'memory'],
  // Guest memory and an interrupt line, by interfaces of their own: nothing of KVM.
  devices: [...everyone],
  tier: [...everyone, 'kvm', 'memory'],
  doctor: [...everyone, 'native.ts', 'kvm', 'memory', 'tier'],
  lab: ['errors.ts', 'arguments.ts', 'terminal.ts'],
  demo: [...everyone, 'terminal.ts', 'kvm', 'memory', 'tier', 'boot', 'lab'],
  cli: [...everyone, 'terminal.ts', 'native.ts', 'kvm', 'memory', 'tier', 'doctor', 'lab', 'demo'],
  'index.ts': [...everyone, 'kvm', 'memory', 'tier', 'doctor', 'lab'],
};

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

function importsOf(file: string): Import[] {
  const text = readFileSync(file, 'utf8');
  const found: Import[] = [];
  for (const match of text.matchAll(/^(import|export)\s+(type\s+)?[^;]*?from\s+'(\.[^']+)'/gms)) {
    found.push({
      from: relative(lib, file),
      to: relative(lib, resolve(dirname(file), match[3]!)),
      typeOnly: match[2] !== undefined,
    });
  }
  for (const match of text.matchAll(/\bimport\('(\.[^']+)'\)/g)) {
    found.push({ from: relative(lib, file), to: relative(lib, resolve(dirname(file), match[1]!)), typeOnly: false });
  }
  return found;
}

const room = (path: string): string => path.split('/')[0]!;
const files = readdirSync(lib, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
const imports = files.flatMap((name) => importsOf(join(lib, name)));

describe('layers', () => {
  it('reads the import lines', () => {
    expect(imports.length).toBeGreaterThan(20);
  });

  it('go one way', () => {
    const wrong = imports
      .filter(({ from, to }) => room(from) !== room(to) && !(allowed[room(from)] ?? []).includes(room(to)))
      .map(({ from, to }) => `${from} imports ${to}`);
    expect(wrong).toEqual([]);
  });

  it('let lib/memory see the kvm handles by type only', () => {
    const wrong = imports
      .filter(({ from, to, typeOnly }) => room(from) === 'memory' && room(to) === 'kvm' && !typeOnly)
      .map(({ from, to }) => `${from} imports ${to}`);
    expect(wrong).toEqual([]);
  });

  it('name every room', () => {
    expect([...new Set(files.map(room))].filter((name) => !(name in allowed))).toEqual([]);
  });
});
