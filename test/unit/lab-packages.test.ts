import { describe, expect, it } from 'vitest';
import { installCommand, packagesMissing, type Inventory } from '../../lib/lab/packages.ts';

const bare: Inventory = { hasCommand: () => false, hasFile: () => false, hasDebianSource: () => false };
const full: Inventory = { hasCommand: () => true, hasFile: () => true, hasDebianSource: () => true };

describe('the packages of the lab', () => {
  it('are all named on a bare machine', () => {
    const missing = packagesMissing({ build: true, debianSource: true }, bare);
    expect(missing).toEqual(
      expect.arrayContaining(['qemu-system-x86', 'gcc', 'make', 'flex', 'bison', 'libelf-dev', 'linux-source-6.12']),
    );
    expect(new Set(missing).size).toBe(missing.length);
  });

  it('are none where everything is there', () => {
    expect(packagesMissing({ build: true, debianSource: true }, full)).toEqual([]);
  });

  it('are fewer to run than to build', () => {
    expect(packagesMissing({ build: false, debianSource: true }, bare)).toEqual([
      'qemu-system-x86',
      'util-linux',
      'gcc',
      'libc6-dev',
    ]);
  });

  it("leave Debian's source out when another is named", () => {
    expect(packagesMissing({ build: true, debianSource: false }, { ...full, hasDebianSource: () => false })).toEqual(
      [],
    );
    expect(packagesMissing({ build: true, debianSource: true }, { ...full, hasDebianSource: () => false })).toEqual([
      'linux-source-6.12',
    ]);
  });

  it('are named for a single tool', () => {
    const inventory: Inventory = { ...full, hasCommand: (name) => name !== 'bison' };
    expect(packagesMissing({ build: true, debianSource: true }, inventory)).toEqual(['bison']);
    expect(installCommand(['bison', 'flex'])).toBe(
      'apt-get update && apt-get install -y --no-install-recommends bison flex',
    );
  });
});
