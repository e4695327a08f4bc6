import { describe, expect, it } from 'vitest';
import { lostOptions, mergeConfig, parseConfig } from '../../lib/lab/config.ts';
import { readRecipe } from '../../lib/lab/paths.ts';

describe("the lab kernel's options", () => {
  it('are read from lines of three kinds', () => {
    expect(
      parseConfig('# a comment\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x y"\nCONFIG_D=64 # optional\n'),
    ).toEqual([
      { name: 'CONFIG_A', value: 'y', optional: false },
      { name: 'CONFIG_B', value: 'n', optional: false },
      { name: 'CONFIG_C', value: '"x y"', optional: false },
      { name: 'CONFIG_D', value: '64', optional: true },
    ]);
  });

  it('refuse a line that is none of them', () => {
    expect(() => parseConfig('KVM=y')).toThrow(
      'Expected CONFIG_NAME=VALUE in a kernel configuration but received KVM=y',
    );
  });

  it('take the place of what the base says of them', () => {
    const merged = mergeConfig(
      '#\n# head\nCONFIG_A=n\n# CONFIG_B is not set\nCONFIG_AB=y\n',
      'CONFIG_B=y\n# CONFIG_A is not set\n',
    );
    expect(merged).toBe('#\n# head\nCONFIG_AB=y\nCONFIG_B=y\n# CONFIG_A is not set\n');
  });

  it('are named when a config lost them', () => {
    const fragment = 'CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\nCONFIG_E=y # optional\n';
    expect(lostOptions('CONFIG_A=y\nCONFIG_C=y\n', fragment)).toEqual(['CONFIG_B=y', 'CONFIG_C=n']);
    expect(lostOptions('CONFIG_A=y\nCONFIG_B=y\n', fragment)).toEqual([]);
  });

  it('hold what private memory needs, each once', () => {
    const options = parseConfig(readRecipe('kernel.config'));
    const names = options.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of [
      'KVM',
      'KVM_AMD',
      'KVM_SW_PROTECTED_VM',
      'PVH',
      'NET_9P_VIRTIO',
      'OVERLAY_FS',
      'VIRTIO_CONSOLE',
    ]) {
      expect(options).toContainEqual({ name: `CONFIG_${name}`, value: 'y', optional: false });
    }
  });
});
