/** The host side of the demo turned against the guest: every way that this process has to look at a guest page. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { KvmError } from '../errors.ts';
import { HostMapping } from '../kvm/index.ts';
import type { GuestMemfd } from '../kvm/index.ts';
import { PAGE, SECRET_MARK, hashPage } from './plan.ts';

/** What one way of looking gave. */
export interface Sighting {
  /** `'shared-mapping'`, `'guest-memfd-mmap'`, `'guest-memfd-read'` or `'proc-self-mem'`. */
  readonly way: string;
  readonly title: string;
  /** `'secret'`: the very page that the guest hashed. */
  readonly sees: 'secret' | 'zeros' | 'other' | 'nothing';
  readonly detail: string;
}

export interface Target {
  /** Where the page is in guest_memfd and in the shared mapping, which are parallel. */
  readonly offset: number;
  /** The guest's hash of it. */
  readonly hash: bigint;
  readonly mapping: HostMapping;
  readonly guestMemfd: GuestMemfd | undefined;
}

export function tryEveryWay(target: Target): Sighting[] {
  const sightings = [
    look('shared-mapping', 'the mapping of the slot', target, () => {
      const page = new Uint8Array(PAGE);
      target.mapping.read(target.offset, page);
      return page;
    }),
  ];
  const { guestMemfd } = target;
  if (guestMemfd !== undefined) {
    sightings.push(
      look('guest-memfd-mmap', 'mmap of the guest_memfd', target, () => mapAndRead(guestMemfd, target.offset)),
    );
    sightings.push(
      look('guest-memfd-read', 'pread of the guest_memfd', target, () => {
        const page = new Uint8Array(PAGE);
        readSync(guestMemfd.fd, page, 0, PAGE, target.offset);
        return page;
      }),
    );
  }
  sightings.push(searchOwnMemory(target));
  return sightings;
}

function mapAndRead(guestMemfd: GuestMemfd, offset: number): Uint8Array {
  // Not guestMemfd.map(), which refuses by itself what the kernel is to refuse here.
  const mapping = HostMapping.file(guestMemfd);
  try {
    const page = new Uint8Array(PAGE);
    mapping.read(offset, page);
    return page;
  } finally {
    mapping.close();
  }
}

function look(way: string, title: string, { hash }: Target, read: () => Uint8Array): Sighting {
  try {
    const page = read();
    if (hashPage(page) === hash) return { way, title, sees: 'secret', detail: `the secret: "${text(page)}..."` };
    if (page.every((byte) => byte === 0)) return { way, title, sees: 'zeros', detail: '4096 zeros' };
    return { way, title, sees: 'other', detail: `other bytes: ${Buffer.from(page.subarray(0, 8)).toString('hex')}...` };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return {
      way,
      title,
      sees: 'nothing',
      detail: `nothing: ${error instanceof KvmError ? message : (code ?? message)}`,
    };
  }
}

function text(page: Uint8Array): string {
  return Buffer.from(page.subarray(0, 40))
    .toString('latin1')
    .replace(/[^\x20-\x7e]/g, '.');
}

/**
 * Every page that this process has, through /proc/self/mem, whatever it may be. Pages that are not there are left alone
 * where the kernel tells which: reading would only fill them with zeros.
 */
function searchOwnMemory({ hash }: Target): Sighting {
  const way = 'proc-self-mem';
  const title = 'all of its own memory, by /proc/self/mem';
  try {
    const { pages, found } = search(hash);
    const detail = found === undefined ? `nothing, in ${pages} pages` : `the secret: "${text(found)}..."`;
    return { way, title, sees: found === undefined ? 'nothing' : 'secret', detail };
  } catch (error) {
    return {
      way,
      title,
      sees: 'nothing',
      detail: `nothing: ${(error as NodeJS.ErrnoException).code ?? String(error)}`,
    };
  }
}

const CHUNK = 256 * PAGE;
const MARK = Buffer.from(SECRET_MARK);

function search(hash: bigint): { pages: number; found: Uint8Array | undefined } {
  const memory = openSync('/proc/self/mem', 'r');
  const presence = new Presence();
  const chunk = Buffer.alloc(CHUNK);
  let pages = 0;
  try {
    for (const [start, end] of writableRanges()) {
      for (const [at, length] of presence.runs(start, end)) {
        const got = readSome(memory, chunk, length, at);
        for (let offset = 0; offset + PAGE <= got; offset += PAGE, pages++) {
          if (chunk.compare(MARK, 0, MARK.length, offset, offset + MARK.length) !== 0) continue;
          const page = Uint8Array.from(chunk.subarray(offset, offset + PAGE));
          if (hashPage(page) === hash) return { pages, found: page };
        }
      }
    }
    return { pages, found: undefined };
  } finally {
    closeSync(memory);
    presence.close();
  }
}

/** Which pages are there, by /proc/self/pagemap; all of them, on a kernel without it. */
class Presence {
  readonly #file = openIfThere('/proc/self/pagemap');
  readonly #entries = Buffer.alloc((8 * CHUNK) / PAGE);

  /** Runs of pages that are there, none longer than CHUNK. */
  *runs(start: bigint, end: bigint): Generator<[bigint, number]> {
    for (let at = start; at < end; at += BigInt(CHUNK)) {
      const length = Number(end - at < BigInt(CHUNK) ? end - at : BigInt(CHUNK));
      if (this.#file === undefined) yield [at, length];
      else yield* this.#present(at, length / PAGE);
    }
  }

  *#present(at: bigint, pages: number): Generator<[bigint, number]> {
    const got = readSync(this.#file!, this.#entries, 0, 8 * pages, (at / BigInt(PAGE)) * 8n) / 8;
    const there = (page: number): boolean => page < got && (this.#entries[8 * page + 7]! & 0x80) !== 0;
    for (let page = 0; page < pages; page++) {
      if (!there(page)) continue;
      const first = page;
      while (there(page)) page++;
      yield [at + BigInt(first * PAGE), (page - first) * PAGE];
    }
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, 'r');
  } catch {
    return undefined;
  }
}

/** 0 where the kernel gives nothing there: device mappings, for one. */
function readSome(file: number, into: Buffer, length: number, at: bigint): number {
  try {
    return readSync(file, into, 0, length, at);
  } catch {
    return 0;
  }
}

function writableRanges(): [bigint, bigint][] {
  return [...readFileSync('/proc/self/maps', 'latin1').matchAll(/^([0-9a-f]+)-([0-9a-f]+) rw/gm)].map((match) => [
    BigInt(`0x${match[1]!}`),
    BigInt(`0x${match[2]!}`),
  ]);
}
