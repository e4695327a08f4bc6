/** docs/exits.md has every member of the union of exits, with its fields. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { exitCodes, leavesPendingWork } from '../../lib/kvm/exits/reasons.ts';

const root = join(import.meta.dirname, '../..');
const page = readFileSync(join(root, 'docs/exits.md'), 'utf8');
const types = readFileSync(join(root, 'lib/kvm/exits/types.ts'), 'utf8');

/** The rows of all tables: reason, marked with * or not, and the row. */
const rows = [...page.matchAll(/^\| `'([a-z-]+)'`( \*)? \|(.*)$/gm)].map(([, reason, star, rest]) => ({
  reason: reason!,
  pending: star !== undefined,
  cells: rest!
    .replace(/\|$/, '')
    .split('|')
    .map((cell) => cell.trim()),
}));

/** The interfaces of the union, as the source has them: their reason and the names of their fields. */
const members = [...types.matchAll(/^export interface (\w+Exit)(?: extends (\w+))? \{\n([^]*?)^\}/gm)]
  .map(([, name, parent, body]) => ({ name: name!, fields: [...fieldsOf(body!), ...inherited(parent)], body: body! }))
  .map(({ name, fields, body }) => ({ name, fields, reason: /reason: '([a-z-]+)'/.exec(body)?.[1] }));

function fieldsOf(body: string): string[] {
  const all = [...body.matchAll(/^ {2}readonly (\w+)\??:/gm)].map(([, field]) => field!);
  return all.filter((field) => field !== 'reason');
}

function inherited(parent: string | undefined): string[] {
  if (parent === undefined) return [];
  return fieldsOf(new RegExp(`^interface ${parent} \\{\\n([^]*?)^\\}`, 'm').exec(types)![1]!);
}

describe('docs/exits.md', () => {
  const union = [.../^export type VcpuExit =\n([^]*?);$/m.exec(types)![1]!.matchAll(/\w+Exit/g)].map(([name]) => name);

  it('has every reason, once', () => {
    const reasons = union.map((name) => members.find((member) => member.name === name)?.reason);
    expect(reasons).not.toContain(undefined);
    expect(rows.map(({ reason }) => reason).sort()).toEqual([...reasons].sort());
    // What the decoder knows, beside the two that the kernel has no number for.
    expect([...Object.keys(exitCodes), 'interrupted', 'unknown'].sort()).toEqual([...reasons].sort());
  });

  it('says for each when, with which fields, how to answer and what happens otherwise', () => {
    for (const { reason, cells } of rows) expect([reason, cells.length]).toEqual([reason, 4]);
  });

  for (const name of union) {
    const { reason, fields } = members.find((member) => member.name === name)!;
    it(`names the fields of '${reason}'`, () => {
      const row = rows.find((each) => each.reason === reason)!;
      // "the same" stands for the row above.
      const text = row.cells.join(' | ').includes('the same; ') ? page : row.cells.join(' | ');
      expect(fields.filter((field) => !text.includes(`\`${field}\``))).toEqual([]);
    });
  }

  it('marks those that the next run finishes', () => {
    const codes: Readonly<Record<string, number>> = exitCodes;
    for (const { reason, pending } of rows) {
      const code = codes[reason];
      expect([reason, pending]).toEqual([reason, code !== undefined && leavesPendingWork(code)]);
    }
  });
});
