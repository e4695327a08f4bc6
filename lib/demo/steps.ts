/** The steps of the demo, in order. Each does one thing for real and says what came of it, or why it cannot be here. */
import {
  KVM_ENOSYS,
  KVM_HC_MAP_GPA_RANGE,
  KVM_MAP_GPA_RANGE_ENCRYPTED,
  KVM_MEMORY_ATTRIBUTE_PRIVATE,
} from '../abi/index.ts';
import { formatBytes } from '../terminal.ts';
import { KvmGuestError, KvmUnsupportedError } from '../errors.ts';
import type { HypercallExit, MemoryFaultExit } from '../kvm/index.ts';
import type { Bounds } from '../memory/index.ts';
import { TIER_FACTS } from '../tier/tiers.ts';
import { identityPageTables, longMode } from './boot.ts';
import { Guest, loadGuestProgram } from './guest-program.ts';
import { tryEveryWay, type Sighting } from './intruder.ts';
import {
  BY_ACCESS_TO_PRIVATE,
  BY_ACCESS_TO_SHARED,
  BY_HYPERCALL,
  HELLO_MAGIC,
  LATE_SLOT,
  MAIN_SLOT,
  PAGE_TABLES_GPA,
  PLAIN_SLOT,
  PREFAULT_PRIVATE,
  PREFAULT_SHARED,
  PROGRAM_END,
  PROGRAM_GPA,
  SECRET,
  TO_PUNCH,
  bytesOf,
  type Area,
} from './plan.ts';
import { Impossible, type Stage } from './report.ts';
import type { Scene } from './scene.ts';

const PATTERN = 0x51a5_0000;
const SPIN_MS = 50;
const MAX_SPINS = 40;
const HYPERCALL_TIMEOUT_MS = 1000;

const hex = (value: bigint): string => `0x${value.toString(16)}`;
const pages = ({ pages: count }: Area): string => `${count} page${count === 1 ? '' : 's'} at `;

const range = ({ atLeast, atMost }: Bounds): string =>
  atLeast === atMost ? formatBytes(atMost) : `${formatBytes(atLeast)} to ${formatBytes(atMost)}`;

function expect(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new Error(otherwise);
}

export async function setUp(scene: Scene, stage: Stage): Promise<boolean> {
  await stage.step('vm', 'Make the strongest VM', () => {
    const refused = scene.fallback.map(({ tier }) => tier).join(', ');
    return `${scene.tier}: it protects ${TIER_FACTS[scene.tier].protects}${refused === '' ? '' : `. Refused: ${refused}`}`;
  });
  await stage.step('exit-hypercall', 'Have hypercalls come to the host', () => {
    scene.vm.enableExitHypercall(1n << BigInt(KVM_HC_MAP_GPA_RANGE));
    return 'KVM_CAP_EXIT_HYPERCALL enabled for KVM_HC_MAP_GPA_RANGE';
  });
  await stage.step('guest-memfd', 'Create a guest_memfd', () => {
    const guestMemfd = scene.createGuestMemfd();
    return `${formatBytes(guestMemfd.size)}, ${guestMemfd.flags === 0n ? 'no flags: the host cannot map it' : `flags ${guestMemfd.flags}: the host maps it`}`;
  });
  const slots = await stage.step('memslots', 'Bind it through memslot v2', () => {
    scene.addSlots();
    const bound =
      scene.guestMemfd === undefined
        ? 'without guest_memfd'
        : scene.facts.guestMemfd === 'mapped'
          ? 'all of it guest_memfd'
          : 'shared memory and guest_memfd together';
    return `slot ${hex(MAIN_SLOT.gpa)}, ${formatBytes(MAIN_SLOT.size)}, ${bound}; two slots of ordinary memory, ${formatBytes(PLAIN_SLOT.size + LATE_SLOT.size)}`;
  });
  return (
    slots &&
    (await stage.step('load', 'Load a 64-bit guest', () => load(scene))) &&
    stage.step('run', 'Run it on a thread of its own', () => run(scene))
  );
}

function load(scene: Scene): string {
  const image = loadGuestProgram();
  expect(PROGRAM_GPA + BigInt(image.byteLength) <= PROGRAM_END, 'the guest program is too long');
  scene.memory.write(PAGE_TABLES_GPA, identityPageTables(PAGE_TABLES_GPA));
  scene.memory.write(PROGRAM_GPA, image);
  scene.vcpu = scene.vm.createVcpu(0);
  scene.vcpu.setCpuid2(scene.kvm.getSupportedCpuid());
  scene.vcpu.setSregs({ ...scene.vcpu.getSregs(), ...longMode(PAGE_TABLES_GPA) });
  scene.vcpu.updateRegs({ rip: PROGRAM_GPA, rsp: PROGRAM_END, rflags: 2n });
  return `${image.byteLength} bytes at ${hex(PROGRAM_GPA)}, page tables at ${hex(PAGE_TABLES_GPA)}, both shared`;
}

async function run(scene: Scene): Promise<string> {
  scene.guest = new Guest(scene.vcpu, {
    hypercall: (exit) => onHypercall(scene, exit),
    memoryFault: (exit) => onFault(scene, exit),
    stuck: () => stepOverHypercall(scene),
  });
  const tscKhz = scene.vcpu.getTscKhz();
  await scene.guest.start();
  const hello = await scene.guest.call('hello');
  expect(hello >> 48n === HELLO_MAGIC, `the guest answered ${hex(hello)}`);
  expect((hello & (1n << 46n)) !== 0n, 'the guest is not in long mode');
  expect((hello & 0xffff_ffffn) === PAGE_TABLES_GPA, 'the guest does not use our page tables');
  const before = scene.guest.exits;
  let ticks = 0;
  let spins = 0;
  const timer = setInterval(() => ticks++, 1);
  try {
    // On a busy machine the guest may have its time over before this thread is scheduled once.
    for (; ticks === 0 && spins < MAX_SPINS; spins++)
      await scene.guest.call('spin', [Math.min(tscKhz * SPIN_MS, 0xffff_ffff)]);
  } finally {
    clearInterval(timer);
  }
  expect(ticks > 0, 'the event loop stood still while the guest ran');
  return `long mode, ${(hello & (1n << 47n)) === 0n ? 'VMCALL' : 'VMMCALL'}; during ${spins * SPIN_MS} ms in the guest the event loop turned ${ticks} time${ticks === 1 ? '' : 's'} (${scene.guest.exits - before} exits)`;
}

export async function keepSecret(scene: Scene, stage: Stage): Promise<void> {
  await stage.step('convert-explicit', 'Make a page private', () => {
    scene.needPrivate();
    const { changed, durationUs } = scene.memory.convert({ gpa: SECRET.gpa, size: bytesOf(SECRET), to: 'private' });
    return `${pages(SECRET)}${hex(SECRET.gpa)}: ${formatBytes(changed)} converted in ${durationUs} us`;
  });
  let hash: bigint | undefined;
  await stage.step('secret', 'The guest makes a secret', async () => {
    hash = await scene.guest.call('secret', [SECRET.gpa]);
    scene.touch(SECRET);
    return `4096 bytes at ${hex(SECRET.gpa)}, in ${scene.facts.privateMemory ? 'private' : 'ordinary'} memory; it tells only a hash, ${hex(hash)}`;
  });
  if (hash === undefined) return;
  const sightings = tryEveryWay({
    offset: Number(SECRET.gpa - MAIN_SLOT.gpa),
    hash,
    mapping: scene.mapping,
    guestMemfd: scene.guestMemfd,
  });
  for (const sighting of sightings) {
    await stage.step(`host-${sighting.way}`, `The host looks: ${sighting.title}`, () => judge(scene, sighting));
  }
  // To look at a page of the shared side is to fill it: give that back.
  for (const { gpa, size, state } of scene.memory.map()) {
    if (state === 'private') scene.memory.discard({ gpa, size, side: 'shared' });
  }
  await stage.step('secret-intact', 'The guest still has its secret', async () => {
    expect((await scene.guest.call('hash', [SECRET.gpa])) === hash, 'the page changed');
    return 'the same hash';
  });
}

function judge(scene: Scene, { sees, detail }: Sighting): string {
  if (sees !== 'secret') return `it sees ${detail}`;
  expect(!scene.facts.privateMemory, `the host read ${detail}`);
  return `it READS ${detail} (a ${scene.vm.typeName} VM keeps nothing from the host)`;
}

function onHypercall(scene: Scene, exit: HypercallExit): void {
  const outcome = scene.memory.handleHypercall(exit);
  if (outcome?.error !== undefined) throw outcome.error;
}

async function mapGpa(scene: Scene, area: Area, attributes: bigint): Promise<bigint> {
  if (!scene.hypercallsLoop) {
    const ret = BigInt.asIntN(
      64,
      await scene.guest.call('mapGpa', [area.gpa, area.pages, attributes], { timeoutMs: HYPERCALL_TIMEOUT_MS }),
    );
    if (!scene.hypercallsLoop) return ret;
  }
  throw new Impossible(
    'the KVM backend of this host emulates the hypercall instruction again and again, and never exits for it',
  );
}

/**
 * Where KVM emulates every instruction, it patches VMCALL or VMMCALL to the one that it thinks right and has the
 * processor execute it again, which never comes: the guest has to be taken over it by hand.
 */
function stepOverHypercall(scene: Scene): boolean {
  const { rip } = scene.vcpu.getRegs();
  const [first, second, third] = scene.memory.read(rip, 3);
  if (first !== 0x0f || second !== 0x01 || (third !== 0xc1 && third !== 0xd9)) return false;
  scene.vcpu.updateRegs({ rip: rip + 3n, rax: BigInt.asUintN(64, -KVM_ENOSYS) });
  scene.hypercallsLoop = true;
  return true;
}

export async function convertByHypercall(scene: Scene, stage: Stage): Promise<void> {
  const area = BY_HYPERCALL;
  const size = bytesOf(area);
  await stage.step('hypercall-to-private', 'The guest makes pages private by hypercall', async () => {
    await scene.guest.call('fill', [area.gpa, area.pages, PATTERN]);
    const ret = await mapGpa(scene, area, KVM_MAP_GPA_RANGE_ENCRYPTED);
    scene.needPrivate(`KVM_HC_MAP_GPA_RANGE reached the host, which answered ${ret}`);
    expect(ret === 0n, `the host answered ${ret}`);
    expect(scene.isPrivate(area), 'the range is not private');
    await scene.guest.call('fill', [area.gpa, area.pages, PATTERN + 1]);
    scene.touch(area);
    expect(scene.hostSees(area.gpa) === 0n, 'the host sees what the guest wrote');
    return `${pages(area)}${hex(area.gpa)}; the guest wrote there, the host sees zeros`;
  });
  await stage.step('hypercall-to-shared', 'The guest makes them shared again by hypercall', async () => {
    const ret = await mapGpa(scene, area, 0n);
    scene.needPrivate(`KVM_HC_MAP_GPA_RANGE reached the host, which answered ${ret}`);
    expect(ret === 0n, `the host answered ${ret}`);
    scene.untouch(area);
    expect((await scene.guest.call('or', [area.gpa, area.pages])) === 0n, 'old bytes came back');
    await scene.guest.call('fill', [area.gpa, area.pages, PATTERN + 2]);
    expect(scene.hostSees(area.gpa) === BigInt(PATTERN + 2), 'the host does not see what the guest wrote');
    return `${formatBytes(size)} given back on the private side; the guest wrote anew, and the host sees it`;
  });
}

/** What the host does about the next memory fault; a fault that no step expects is an error. */
const expected = new WeakMap<Scene, (exit: MemoryFaultExit) => void>();

function onFault(scene: Scene, exit: MemoryFaultExit): void {
  const serve = expected.get(scene);
  if (serve === undefined)
    throw new KvmGuestError(`The guest faulted at ${hex(exit.gpa)}, and no step expects that`, { exit });
  serve(exit);
}

async function whileServing(
  scene: Scene,
  serve: (exit: MemoryFaultExit) => void,
  action: () => Promise<void>,
): Promise<number> {
  let faults = 0;
  expected.set(scene, (exit) => {
    faults++;
    serve(exit);
  });
  try {
    await action();
    return faults;
  } finally {
    expected.delete(scene);
  }
}

/**
 * A sw-protected VM takes the kind of an access from the attribute, so what a confidential guest does (touch a shared
 * page as private, or the reverse) cannot happen. An access to a page that is private and has no private memory behind
 * it causes the same exit, and here one is answered either way.
 */
export async function convertByAccess(scene: Scene, stage: Stage): Promise<void> {
  await stage.step('access-to-private', 'Plain access: a fault makes pages private', () => accessToPrivate(scene));
  await stage.step('access-to-shared', 'Plain access: a fault makes a page shared', () => accessToShared(scene));
}

async function accessToPrivate(scene: Scene): Promise<string> {
  scene.needPrivate();
  const area = BY_ACCESS_TO_PRIVATE;
  const size = bytesOf(area);
  scene.vm.setMemoryAttributes({ address: area.gpa, size, attributes: KVM_MEMORY_ATTRIBUTE_PRIVATE });
  const faults = await whileServing(
    scene,
    (exit) => {
      // The access wants private memory and the slot has none: give it some, and let the engine convert.
      scene.memory.remove(scene.lateRegion);
      scene.lateRegion = scene.memory.add({ ...LATE_SLOT, backing: { kind: 'shared' }, private: true });
      const { changed } = scene.memory.handleMemoryFault({ ...exit, gpa: area.gpa, size: BigInt(size) }, { vcpu: 0 });
      expect(changed === size, `${changed} bytes were converted`);
    },
    async () => {
      await scene.guest.call('fill', [area.gpa, area.pages, PATTERN]);
      expect((await scene.guest.call('peek', [area.gpa])) === BigInt(PATTERN), 'the guest does not see what it wrote');
    },
  );
  expect(faults === 1, `${faults} memory faults`);
  scene.touch(area);
  expect(scene.memory.readU64(area.gpa, { side: 'shared' }) === 0n, 'the host sees what the guest wrote');
  return `${pages(area)}${hex(area.gpa)}: KVM_EXIT_MEMORY_FAULT, a guest_memfd bound in answer, the write went there`;
}

async function accessToShared(scene: Scene): Promise<string> {
  scene.needPrivate();
  const area = BY_ACCESS_TO_SHARED;
  const size = bytesOf(area);
  const lost = scene.vm.createGuestMemfd(PLAIN_SLOT.size);
  scene.memory.remove(scene.plainRegion);
  scene.plainRegion = scene.memory.add({ ...PLAIN_SLOT, backing: { kind: 'shared' }, private: { guestMemfd: lost } });
  scene.memory.convert({ gpa: area.gpa, size, to: 'private' });
  lost.close();
  const faults = await whileServing(
    scene,
    (exit) => {
      expect(exit.private && exit.gpa === area.gpa, `a fault at ${hex(exit.gpa)}`);
      scene.memory.convert({ gpa: area.gpa, size, to: 'shared', discard: 'none' });
    },
    async () => {
      await scene.guest.call('fill', [area.gpa, area.pages, PATTERN]);
    },
  );
  expect(faults === 1, `${faults} memory faults`);
  expect(scene.memory.readU64(area.gpa) === BigInt(PATTERN), 'the host does not see what the guest wrote');
  return `${pages(area)}${hex(area.gpa)}: KVM_EXIT_MEMORY_FAULT (its guest_memfd is closed), converted, the write went to shared memory`;
}

export async function punch(scene: Scene, stage: Stage): Promise<void> {
  await stage.step('punch', 'Punch a hole: the guest sees zeros', async () => {
    if (scene.guestMemfd === undefined || (scene.facts.guestMemfd === 'plain' && !scene.facts.privateMemory)) {
      throw new Impossible('the guest does not run on a guest_memfd');
    }
    const area = TO_PUNCH;
    const size = bytesOf(area);
    if (scene.facts.privateMemory) scene.memory.convert({ gpa: area.gpa, size, to: 'private' });
    await scene.guest.call('fill', [area.gpa, area.pages, PATTERN]);
    scene.touch(area);
    expect((await scene.guest.call('or', [area.gpa, area.pages])) !== 0n, 'the guest sees zeros before');
    const half = { gpa: area.gpa, pages: area.pages / 2 };
    scene.guestMemfd.punchHole(area.gpa - MAIN_SLOT.gpa, BigInt(size));
    scene.untouch(area);
    expect((await scene.guest.call('or', [half.gpa, half.pages])) === 0n, 'the guest still sees its bytes');
    scene.touch(half);
    return `${formatBytes(size)} at ${hex(area.gpa)} punched; the guest read ${half.pages} pages anew, all zeros`;
  });
}

export async function prefault(scene: Scene, stage: Stage): Promise<void> {
  await stage.step('prefault-private', 'Pre-fault private memory', async () => {
    scene.needPrivate();
    scene.memory.convert({ gpa: PREFAULT_PRIVATE.gpa, size: bytesOf(PREFAULT_PRIVATE), to: 'private' });
    const detail = await prefaultArea(scene, PREFAULT_PRIVATE);
    scene.touch(PREFAULT_PRIVATE);
    return detail;
  });
  await stage.step('prefault-shared', 'Pre-fault shared memory', () => prefaultArea(scene, PREFAULT_SHARED));
}

async function prefaultArea(scene: Scene, area: Area): Promise<string> {
  try {
    const { bytes, calls, durationUs } = await scene.guest.aside(() =>
      scene.memory.prefault({ gpa: area.gpa, size: bytesOf(area), vcpus: [scene.vcpu] }),
    );
    return `${formatBytes(bytes)} at ${hex(area.gpa)} in ${calls} call${calls === 1 ? '' : 's'}, ${durationUs} us`;
  } catch (error) {
    if (error instanceof KvmUnsupportedError) throw new Impossible(error.message);
    throw error;
  }
}

export async function finish(scene: Scene, stage: Stage): Promise<void> {
  await stage.step('account', 'Account for both sides', () => {
    const { private: own, shared, doubled } = scene.memory.account();
    const conversions = scene.conversions.length;
    return (
      `private ${formatBytes(own.bytes)}, ${range(own.populated)} of it held; shared ${formatBytes(shared.bytes)}, ` +
      `${formatBytes(shared.populated)} held; held on both sides ${range(doubled)}; ${conversions} conversion${conversions === 1 ? '' : 's'}`
    );
  });
  await stage.step('halt', 'The guest halts', async () => {
    await scene.guest.halt();
    return `after ${scene.guest.exits} exits`;
  });
}
