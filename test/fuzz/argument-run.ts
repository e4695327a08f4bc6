/** One seed of the argument fuzzer: a scene, some calls on it, and nothing left afterwards. */
import { EventEmitter } from 'node:events';
import { types } from 'node:util';
import * as lib from '../../lib/index.ts';
import { Generator } from './generate.ts';
import { guard } from './guards.ts';
import { complaint, holdings, leakedSince } from './oracle.ts';
import { Random } from './random.ts';
import { Scene } from './scene.ts';
import type { Actor } from './scene.ts';
import { show } from './show.ts';
import type { Field, Signatures } from './signatures.ts';

export interface Reporter {
  /** Before each call, so that a crash has a name. */
  at(seed: number, call: number, text: string): void;
  readonly gc: () => void;
  /** Takes what is wrong and goes on; without it, the first ends the run. */
  readonly collect?: (complaint: string) => void;
}

interface Member {
  readonly kind: 'call' | 'get' | 'set' | 'new';
  readonly name: string;
  readonly act: (given: readonly unknown[]) => unknown;
}

// Looks at the whole host, for a second.
const SKIPPED = new Set(['constructor', 'examineHost', 'prototype']);
const ENDS = [Object.prototype, Function.prototype, EventEmitter.prototype] as readonly unknown[];
const CONSTRUCTED = new Set(['GuestMemory', 'DirtyRing', 'CoalescedRing']);

/** Runs one seed. Throws with the call that broke a rule. */
export async function argumentSeed(
  seed: number,
  calls: number,
  signatures: Signatures,
  reporter: Reporter,
): Promise<number> {
  const random = new Random(seed);
  const before = holdings();
  const reached = await play(random, seed, calls, signatures, reporter);
  reporter.at(seed, calls, 'after closing everything');
  const leaked = await leakedSince(before, reporter.gc);
  if (leaked !== undefined) {
    if (reporter.collect === undefined) throw new Error(`seed ${seed} left ${leaked}`);
    reporter.collect(`seed ${seed} left ${leaked}`);
  }
  return reached;
}

/** Returns how many calls went through without an error. */
async function play(
  random: Random,
  seed: number,
  calls: number,
  signatures: Signatures,
  reporter: Reporter,
): Promise<number> {
  const scene = new Scene(random, seed % 2 === 0 ? 'native' : 'lib');
  const generator = new Generator(random, signatures, scene);
  const open: Promise<unknown>[] = [];
  let done = 0;
  let text = '';
  const judge = (error: unknown, what: string): void => {
    const wrong = complaint(error);
    if (wrong === undefined) return;
    const complained = `seed ${seed}, call ${what}\n  ${wrong}`;
    if (reporter.collect === undefined) throw new Error(complained);
    reporter.collect(complained);
  };
  try {
    for (let call = 0; call < calls; call++) {
      const actor = random.pick(scene.actors);
      const members = membersOf(actor, signatures);
      if (members.length === 0) continue;
      const member = random.pick(members);
      const fields = fieldsOf(signatures, actor, member);
      const given = guard(member.name, member.name === 'ioctl' ? generator.ioctl() : generator.arguments(fields));
      text = `${call}: ${member.kind} ${actor.type}.${member.name}(${given.map((value) => show(value)).join(', ')})`;
      reporter.at(seed, call, text);
      let result: unknown;
      try {
        result = member.act(given);
        done++;
      } catch (error) {
        judge(error, text);
        continue;
      }
      const settled = keep(scene, actor, result, text);
      if (settled !== undefined) open.push(settled.catch((error: unknown) => judge(error, settled.text)));
      if (random.oneIn(8)) await new Promise((turn) => setImmediate(turn));
    }
  } finally {
    reporter.at(seed, calls, `closing everything, after ${text}`);
    for (const error of scene.close()) judge(error, 'closing');
  }
  reporter.at(seed, calls, `waiting for promises, after ${text}`);
  await Promise.all(open);
  return done;
}

function fieldsOf(signatures: Signatures, actor: Actor, { kind, name }: Member): readonly Field[] | undefined {
  if (actor.type === 'the package') {
    return kind === 'new' ? signatures.methods[name]?.['new'] : signatures.functions[name];
  }
  const key = kind === 'set' ? `set ${name}` : name;
  const own = signatures.methods[actor.type]?.[key];
  if (own !== undefined) return own;
  for (
    let at = Object.getPrototypeOf(actor.object) as object | null;
    at !== null;
    at = Object.getPrototypeOf(at) as object | null
  ) {
    const { name: base } = at.constructor;
    const fields = signatures.methods[base]?.[key];
    if (fields !== undefined) return fields;
  }
  // Interfaces of the addon that the object's own extends.
  for (const base of signatures.types[actor.type]?.bases ?? []) {
    const fields = fieldsOf(signatures, { type: base, object: {} }, { kind, name, act: () => undefined });
    if (fields !== undefined) return fields;
  }
  return undefined;
}

const known = new WeakMap<object, readonly Member[]>();

function membersOf(actor: Actor, signatures: Signatures): readonly Member[] {
  const cached = known.get(actor.object);
  if (cached !== undefined) return cached;
  const { object } = actor;
  const members: Member[] = [];
  const seen = new Set<PropertyKey>();
  for (let at = object; at !== null && !ENDS.includes(at); at = Object.getPrototypeOf(at) as object) {
    const hidden = actor.type.startsWith('Native') ? [] : (signatures.hidden[classNameOf(at)] ?? []);
    for (const key of Reflect.ownKeys(at)) {
      const name = String(key);
      if (seen.has(key) || SKIPPED.has(name)) continue;
      seen.add(key);
      if (hidden.includes(name)) continue;
      const { value, get, set } = Object.getOwnPropertyDescriptor(at, key)!;
      const target = object as Record<PropertyKey, (...given: readonly unknown[]) => unknown>;
      if (CONSTRUCTED.has(name) && object === (lib as object)) {
        members.push({
          kind: 'new',
          name,
          act: (given) => new (value as new (...given: readonly unknown[]) => object)(...given),
        });
      } else if (typeof value === 'function' && !/^class\b/.test(Function.prototype.toString.call(value))) {
        members.push({ kind: 'call', name, act: (given) => target[key]!(...given) });
      }
      if (get !== undefined) members.push({ kind: 'get', name, act: () => target[key] });
      if (set !== undefined) members.push({ kind: 'set', name, act: ([first]) => Reflect.set(target, key, first) });
    }
  }
  known.set(object, members);
  return members;
}

/** Of a prototype, or of a class given for its static members. */
function classNameOf(object: object): string {
  return typeof object === 'function' ? object.name : (object.constructor?.name ?? '');
}

/** Whatever has to be closed, settled or ended. */
function keep(
  scene: Scene,
  actor: Actor,
  result: unknown,
  text: string,
): (Promise<unknown> & { text: string }) | undefined {
  if (typeof result !== 'object' || result === null) return undefined;
  if (result instanceof Promise) {
    return Object.assign(
      result.then((value: unknown) => {
        adopt(scene, actor, value);
      }),
      { text },
    );
  }
  if (Symbol.asyncIterator in result && 'next' in result) {
    const iterator = result as AsyncGenerator<unknown>;
    return Object.assign(
      iterator.next().then(() => iterator.return(undefined)),
      { text },
    );
  }
  adopt(scene, actor, result);
  return undefined;
}

function adopt(scene: Scene, actor: Actor, result: unknown): void {
  // What comes back may be what was given: only what the package made is the package's to close.
  if (typeof result !== 'object' || result === null || types.isProxy(result) || scene.handles.includes(result)) return;
  if (typeof (result as { close?: unknown }).close !== 'function') return;
  const type = result.constructor.name;
  scene.adopt(actor.type.startsWith('Native') ? `Native${type}` : type, result);
}
