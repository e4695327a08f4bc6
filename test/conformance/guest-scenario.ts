/** The scenarios of the conversion test, step by step and point by point, for one vCPU on its own chunk of memory. */
import type { Area } from './guest-area.ts';
import { compare, fill, PAGE } from './guest-vcpu.ts';
import type { Guest, Range } from './guest-vcpu.ts';

const LARGE = 2 ** 21;

/** Of each vCPU. */
export const CHUNK_SIZE = LARGE + PAGE;

/** Offset and size: a page, and 2 MiB, aligned and not, and the page behind. */
export const RANGES: readonly (readonly [number, number])[] = [
  [0, PAGE],
  [0, LARGE],
  [PAGE, PAGE],
  [PAGE, LARGE],
  [LARGE, PAGE],
];

/** Which points were looked at, and how often; and where the first error was. */
export class Findings {
  readonly checks = new Map<string, number>();
  failure: { readonly point: string; readonly error: unknown } | undefined;

  async check(point: string, look: () => void | Promise<void>): Promise<void> {
    try {
      await look();
    } catch (error) {
      this.failure ??= { point, error };
      throw error;
    }
    this.add(point);
  }

  add(point: string, times = 1): void {
    this.checks.set(point, (this.checks.get(point) ?? 0) + times);
  }
}

export interface Scene {
  readonly guest: Guest;
  readonly area: Area;
  /** Where the chunk of this vCPU begins. */
  readonly base: bigint;
  readonly findings: Findings;
}

export interface ExplicitOptions {
  /** Conversions punch and allocate too. */
  readonly fallocate: boolean;
  /** Points 7 to 10 for 2 MiB ranges as well, page by page, where the kernel's test touches the first page only. */
  readonly everyPage: boolean;
  /** What the host finds on the shared side once it has become private: what was there, or nothing. */
  readonly sharedSide: 'kept' | 'dropped';
}

/** Points 5 to 12. */
export async function explicitConversion(scene: Scene, options: ExplicitOptions): Promise<void> {
  const { fallocate, everyPage, sharedSide } = options;
  const { guest, area, base, findings } = scene;
  // Each vCPU has patterns of its own, so that no chunk can pass for another.
  const [before, initial, p1, p2, p3, p4] = [0xa0, 0xc0, 0x10, 0x20, 0x30, 0x40].map(
    (pattern) => pattern + guest.id,
  ) as [number, number, number, number, number, number];
  const chunk = { gpa: base, size: CHUNK_SIZE };
  const left = sharedSide === 'kept' ? p1 : 0;

  await findings.check('3.5', async () => {
    await guest.run(fill(chunk, before), compare(chunk, before));
    area.expectShared(chunk, before);
  });
  area.fillShared(chunk, initial);
  await findings.check('3.6', () => guest.run(compare(chunk, initial)));

  for (const [offset, size] of RANGES) {
    const range = { gpa: base + BigInt(offset), size };
    await guest.run(fill(range, p1));
    await area.convert(guest, range, 'private', fallocate);
    if (size > PAGE && !everyPage) {
      await guest.run(fill({ ...range, size: PAGE }, p2));
    } else {
      await findings.check('3.7', async () => {
        await guest.run(fill(range, p2));
        area.expectShared(range, left);
      });
      await findings.check('3.8', () => guest.run(compare(range, p2)));
      await findings.check('3.9', () => guest.run(...around(chunk, range).map((part) => compare(part, initial))));
      await findings.check('3.10', () => oddPages(scene, range, fallocate, { left, p2, p3 }));
    }
    await area.convert(guest, range, 'shared', fallocate);
    await findings.check('3.11', async () => {
      await guest.run(fill(range, p3));
      area.expectShared(range, p3);
      area.fillShared(range, p4);
      await guest.run(compare(range, p4));
    });
    await guest.run(fill(range, initial));
    await area.reset(guest, chunk);
    // The attributes alone would show the old private pages again, were any left.
    await findings.check('3.12', async () => {
      await area.convert(guest, range, 'private', false);
      await guest.run(compare(range, 0));
      await area.reset(guest, chunk);
      if (sharedSide === 'dropped') await guest.run(fill(range, initial));
      await guest.run(compare(chunk, initial));
    });
  }
}

/** Every odd page becomes shared again, one at a time; every even one stays private. */
async function oddPages(
  { guest, area }: Scene,
  { gpa, size }: Range,
  fallocate: boolean,
  { left, p2, p3 }: Readonly<Record<'left' | 'p2' | 'p3', number>>,
): Promise<void> {
  for (let offset = 0; offset < size; offset += PAGE) {
    const page = { gpa: gpa + BigInt(offset), size: PAGE };
    if ((offset / PAGE) % 2 === 1) {
      await area.convert(guest, page, 'shared', fallocate);
      area.expectShared(page, left);
      area.fillShared(page, p3);
      await guest.run(compare(page, p3));
    } else {
      area.expectShared(page, left);
    }
  }
  // What became of the neighbours must not have touched any of them.
  const pages = Array.from({ length: size / PAGE }, (_, index) => ({ gpa: gpa + BigInt(index * PAGE), size: PAGE }));
  await guest.run(...pages.map((page, index) => compare(page, index % 2 === 1 ? p3 : p2)));
}

/** Points 13 and 14. `precise`: only the target has pages, not the whole chunk. */
export async function holePunching({ guest, area, base, findings }: Scene, precise: boolean): Promise<void> {
  const initial = 0xc0 + guest.id;
  const chunk = { gpa: base, size: CHUNK_SIZE };
  await area.convert(guest, chunk, 'private', false);
  for (const [offset, size] of RANGES) {
    const range = { gpa: base + BigInt(offset), size };
    const present = precise ? range : chunk;
    await findings.check('3.13', async () => {
      await area.punch(guest, chunk);
      await guest.run(fill(present, initial), compare(present, initial));
    });
    await findings.check('3.14', async () => {
      await area.punch(guest, range);
      await guest.run(compare(range, 0), ...around(present, range).map((part) => compare(part, initial)));
    });
  }
  await area.reset(guest, chunk);
}

/** What of `whole` lies before and after `range`. */
function around(whole: Range, range: Range): Range[] {
  const [end, last] = [range.gpa + BigInt(range.size), whole.gpa + BigInt(whole.size)];
  return [
    { gpa: whole.gpa, size: Number(range.gpa - whole.gpa) },
    { gpa: end, size: Number(last - end) },
  ].filter(({ size }) => size > 0);
}
