/**
 * One run of the conversion test in one set-up: all vCPUs at the same time, each on its own chunk. It is run once, and
 * each point's test looks at what was found for it.
 */
import { Kvm } from '../../lib/index.ts';
import type { Vm } from '../../lib/index.ts';
import { AREA_GPA } from './guest-area.ts';
import type { Area } from './guest-area.ts';
import { writeGuest } from './guest-code.ts';
import { CHUNK_SIZE, Findings } from './guest-scenario.ts';
import type { Scene } from './guest-scenario.ts';
import { Guest, LostGuest } from './guest-vcpu.ts';
import { inLab } from './support.ts';

export interface FlowOptions {
  readonly vcpus: number;
  /** Bytes from one vCPU's chunk to the next; default: none between them. */
  readonly spacing?: number;
  /** Sets up memory. */
  readonly area: (vm: Vm) => Area;
  readonly play: (scene: Scene) => Promise<void>;
}

/** How often a run is made again whose guest was lost by the emulated processor of the lab. */
const REPEATS = 3;

/** Runs it. Whatever was wrong is in the findings. */
export async function flow(options: FlowOptions): Promise<Findings> {
  for (let repeat = 0; ; repeat++) {
    const findings = await play(options);
    if (!inLab || !(findings.failure?.error instanceof LostGuest) || repeat === REPEATS) return findings;
    console.warn(`The run is made again: ${findings.failure.error.message}`);
  }
}

async function play({ vcpus, spacing = CHUNK_SIZE, area: open, play: playOne }: FlowOptions): Promise<Findings> {
  const findings = new Findings();
  const kvm = Kvm.open();
  let area: Area | undefined;
  try {
    const vm = kvm.createVm('sw-protected');
    vm.enableExitHypercall();
    const opened = (area = open(vm));
    writeGuest(opened.low);
    const cpuid = kvm.getSupportedCpuid();
    const { low, handlers } = opened;
    const guests = Array.from({ length: vcpus }, (_, id) => new Guest(vm, id, low, { cpuid, handlers }));
    // Waits for all of them: none may run on while its memory is taken away.
    const ends = await Promise.allSettled(
      guests.map((guest, index) =>
        playOne({ guest, area: opened, base: AREA_GPA + BigInt(index * spacing), findings }),
      ),
    );
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
    findings.add('3.17', vcpus);
    for (const [point, times] of opened.seen) findings.add(point, times);
  } catch (error) {
    findings.failure ??= { point: 'the set-up', error };
  } finally {
    kvm.close();
    area?.close();
  }
  return findings;
}

/** Fails where the point was not looked at, or anything of the run went wrong. */
export function expectFound({ checks, failure }: Findings, point: string): void {
  if (failure !== undefined) {
    throw new Error(`${failure.point}: ${(failure.error as Error).message}`, { cause: failure.error });
  }
  if (!checks.has(point)) throw new Error(`The run never came to point ${point}`);
}
