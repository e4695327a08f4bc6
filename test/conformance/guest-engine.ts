/** The memory of the conversion tests, with the engine of `GuestMemory` in the place of the test's own calls. */
import { GuestMemory } from '../../lib/index.ts';
import type { Backing, Conversion, DiscardPolicy, HypercallExit, Vm } from '../../lib/index.ts';
import { KVM_HC_MAP_GPA_RANGE, KVM_MAP_GPA_RANGE_ENCRYPTED } from '../../lib/abi/index.ts';
import { AREA_GPA, expectBytes } from './guest-area.ts';
import type { Area } from './guest-area.ts';
import { LOW_SIZE } from './guest-code.ts';
import { convert, PAGE } from './guest-vcpu.ts';
import type { Guest, Handlers, Range } from './guest-vcpu.ts';

/** Who asks for a conversion, and in which way the engine does it. */
export type Asks = 'hypercall' | 'hypercall, off the main thread' | 'program' | 'program, off the main thread';

export interface EngineOptions {
  readonly size: number;
  readonly slots?: number;
  readonly backing?: Backing;
  readonly discard: DiscardPolicy;
  readonly asks: Asks;
}

export class EngineArea implements Area {
  readonly low: Uint8Array;
  readonly seen = new Map<string, number>();
  readonly handlers: Handlers = { hypercall: (exit) => this.#serve(exit) };
  readonly memory: GuestMemory;
  readonly #asks: Asks;

  constructor(vm: Vm, { size, slots = 1, backing = { kind: 'anonymous' }, discard, asks }: EngineOptions) {
    this.#asks = asks;
    this.memory = new GuestMemory(vm, { discard });
    this.memory.add({ gpa: 0n, size: LOW_SIZE });
    this.low = this.memory.view(0n, LOW_SIZE);
    const each = size / slots;
    for (let index = 0; index < slots; index++) {
      this.memory.add({ gpa: AREA_GPA + BigInt(index * each), size: each, backing, private: true });
    }
  }

  async convert(guest: Guest, range: Range, to: 'private' | 'shared', fallocate: boolean): Promise<void> {
    if (this.#asks.startsWith('hypercall')) {
      await guest.run(convert(range, to === 'private' ? KVM_MAP_GPA_RANGE_ENCRYPTED : 0n));
    } else {
      const options = { ...range, to };
      this.#look(this.#asks === 'program' ? this.memory.convert(options) : await this.memory.convertAsync(options));
    }
    if (!fallocate) return;
    if (to === 'private') await this.memory.allocateAsync(range);
    else await this.punch(guest, range);
    this.#see('3.2');
  }

  async reset(guest: Guest, range: Range): Promise<void> {
    await this.convert(guest, range, 'shared', false);
    await this.punch(guest, range);
    if (this.memory.attributes.ranges(range.gpa, range.size).some(({ state }) => state !== 'shared')) {
      throw new Error('Not all of it is shared');
    }
  }

  async punch(_guest: Guest, range: Range): Promise<void> {
    await this.memory.discardAsync({ ...range, side: 'private' });
  }

  expectShared(range: Range, byte: number): void {
    expectBytes((into) => this.memory.readInto(range.gpa, into, { side: 'shared' }), range, byte);
  }

  fillShared(range: Range, byte: number): void {
    this.memory.fill(range.gpa, range.size, byte, { side: 'shared' });
  }

  close(): void {
    this.memory.close();
  }

  async #serve(exit: HypercallExit): Promise<void> {
    if (exit.nr !== KVM_HC_MAP_GPA_RANGE) throw new Error(`Expected KVM_HC_MAP_GPA_RANGE and not hypercall ${exit.nr}`);
    this.#see('3.1');
    const [gpa = 0n, pages = 0n] = exit.args;
    const outcome =
      this.#asks === 'hypercall' ? this.memory.handleHypercall(exit) : await this.memory.handleHypercallAsync(exit);
    if (outcome?.ret !== 0n || exit.ret[0] !== 0n) {
      throw new Error(`The hypercall came to ${outcome?.ret}`, { cause: outcome?.error });
    }
    this.#look(outcome.conversion!);
    const { gpa: from, size } = outcome.conversion!;
    if (from !== gpa || size !== Number(pages) * PAGE) throw new Error('Another range was converted');
    this.#see('3.4');
  }

  #look({ changed, discardError }: Conversion): void {
    if (discardError !== undefined) throw discardError;
    if (changed > 0) this.#see('3.3');
  }

  #see(point: string): void {
    this.seen.set(point, (this.seen.get(point) ?? 0) + 1);
  }
}
