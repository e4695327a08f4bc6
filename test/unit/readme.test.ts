import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');
const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => join('docs', name))].filter((name) =>
  name.endsWith('.md'),
);

describe('README', () => {
  it('shows the hello example as it is', () => {
    expect(readme).toContain(readFileSync(join(root, 'examples/hello.mjs'), 'utf8'));
  });

  it('names every example', () => {
    for (const name of readdirSync(join(root, 'examples'))) expect(readme).toContain(`examples/${name}`);
  });
});

describe('links between pages', () => {
  it.each(pages)('of %s lead somewhere', (page) => {
    const text = readFileSync(join(root, page), 'utf8');
    const dead = [...text.matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)]
      .map((match) => match[1]!)
      .filter((target) => !existsSync(join(root, page, '..', target)));
    expect(dead).toEqual([]);
  });
});
