// Signals and exceptions while a vCPU runs, and children beside it.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { baseline, main, makeGuest, say, settled, SIZE, SPIN, turn } from './kit.ts';
import { Eventfd, GuestMemory, HostFile, HostMapping, Kvm } from '../../../lib/index.ts';

/** l: inc dword [0x8000]; out 0x10, al; jmp l */
const COUNT = [0x66, 0xff, 0x06, 0x00, 0x80, 0xe6, 0x10, 0xeb, 0xf7];

const byDesign = (): Error => new Error('by design');
/** Long enough that whoever ends this is somebody else. */
const FOREVER_MS = 1e7;

/** With a handler, everything can still be closed. */
function handled(what: 'uncaughtException' | 'SIGINT' | 'SIGTERM', close: () => unknown): void {
  process.once(what, (given: unknown) => {
    say(given instanceof Error ? given.message : String(given));
    void close();
  });
}

/** What the descriptors of a program that this one executes are. */
async function linksOfChild(): Promise<string[]> {
  const child = spawn('ls', ['-l', '/proc/self/fd'], { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (chunk: Buffer) => {
    out += chunk.toString();
  });
  assert.equal(
    await new Promise((done) => {
      child.on('close', done);
    }),
    0,
  );
  return out.match(/ -> .*/g) ?? [];
}

async function closeAll(
  before: Awaited<ReturnType<typeof baseline>>,
  guest: ReturnType<typeof makeGuest>,
): Promise<void> {
  guest.kvm.close();
  guest.mapping.close();
  process.removeAllListeners();
  await settled(before);
  say('closed');
}

await main({
  async throwInExitHandler() {
    for await (const exit of makeGuest().vcpu.exits()) {
      assert.equal(exit.reason, 'io');
      throw byDesign();
    }
  },
  throwAfterRunSync() {
    makeGuest().vcpu.runSync();
    throw byDesign();
  },
  async throwBesideRun() {
    void makeGuest({ code: SPIN }).vcpu.run();
    setTimeout(() => {
      throw byDesign();
    }, 20);
    await turn(FOREVER_MS);
  },
  async throwInWait() {
    const eventfd = Eventfd.create();
    void eventfd.wait().then(() => {
      throw byDesign();
    });
    eventfd.write();
    await turn(FOREVER_MS);
  },
  throwInConversion() {
    const memory = new GuestMemory(Kvm.open().createVm('sw-protected'));
    memory.add({ gpa: 0n, size: SIZE, private: true });
    memory.on('conversion', () => {
      throw byDesign();
    });
    memory.convert({ gpa: 0n, size: SIZE, to: 'private' });
  },
  async throwInHandlerOfThat() {
    process.on('uncaughtException', () => {
      throw byDesign();
    });
    void makeGuest({ code: SPIN }).vcpu.run();
    setTimeout(() => {
      throw new Error('the first');
    }, 20);
    await turn(FOREVER_MS);
  },
  async uncaughtButHandled() {
    const before = await baseline();
    const guest = makeGuest();
    const spinning = makeGuest({ code: SPIN });
    const ended = assert.rejects(spinning.vcpu.run(), { code: 'ERR_KVM_CLOSED' });
    handled('uncaughtException', async () => {
      assert.equal(guest.vcpu.runSync().reason, 'io');
      spinning.kvm.close();
      spinning.mapping.close();
      await ended;
      await closeAll(before, guest);
    });
    setImmediate(async () => {
      for await (const _ of guest.vcpu.exits()) throw byDesign();
    });
  },

  /** `ready` is said when the vCPU is about to run; the parent sends signals until something happens. */
  async signalRun(signal, handle) {
    const before = await baseline();
    const guest = makeGuest({ code: SPIN });
    const run = guest.vcpu.run();
    if (handle !== undefined) {
      handled(signal as 'SIGINT', () => closeAll(before, guest));
      const rejected = assert.rejects(run, { code: 'ERR_KVM_CLOSED' });
      say('ready');
      await rejected;
      return;
    }
    say('ready');
    await run;
  },
  async signalRunSync(signal, handle) {
    const before = await baseline();
    const guest = makeGuest({ code: SPIN });
    let seen = false;
    if (handle !== undefined)
      handled(signal as 'SIGINT', () => {
        seen = true;
      });
    say('ready');
    const exit = guest.vcpu.runSync();
    assert.deepEqual(exit, { reason: 'interrupted', cause: 'signal' });
    // The handler runs when the event loop does.
    while (!seen) await turn(5);
    await closeAll(before, guest);
  },

  /** Children while the guest runs: they inherit none of our descriptors, and the guest's memory stays its own. */
  async spawn(times) {
    // Some are inherited from whoever started this program.
    const inherited = (await linksOfChild()).length;
    const before = await baseline();
    const kvm = Kvm.open();
    const vm = kvm.createVm();
    // Private memory: what is written during a fork is copied for one of the two.
    const mapping = HostMapping.anonymous(SIZE);
    const guest = { kvm, vm, mapping, vcpu: vm.createVcpu(0) };
    const others = [HostFile.memfd(SIZE), Eventfd.create(), vm.getStatsFd(), guest.vcpu.getStatsFd()];
    mapping.fill(0, SIZE, 0xa5);
    mapping.write(0x8000, new Uint8Array(4));
    mapping.write(0x1000, Uint8Array.from(COUNT));
    vm.setUserMemoryRegion({ slot: 0, gpa: 0n, size: SIZE, mapping });
    guest.vcpu.updateSregs({ cs: { ...guest.vcpu.getSregs().cs, base: 0n, selector: 0 } });
    guest.vcpu.updateRegs({ rip: 0x1000n, rflags: 2n });
    const expected = mapping.read(0, SIZE);
    const view = mapping.view();
    const counter = new DataView(view.buffer, 0x8000, 4);

    let over = false;
    let exits = 0;
    const running = (async () => {
      for await (const exit of guest.vcpu.exits()) {
        assert.equal(exit.reason, 'io');
        assert.equal(counter.getUint32(0, true), ++exits);
        if (over) return;
      }
    })();
    const list = async (): Promise<void> => {
      const links = await linksOfChild();
      assert.doesNotMatch(links.join(), /kvm|memfd|eventfd/);
      assert.equal(links.length, inherited, links.join());
    };
    for (let i = 0; i < Number(times); i += 4) await Promise.all([list(), list(), list(), list()]);
    over = true;
    await running;
    new DataView(expected.buffer, 0x8000, 4).setUint32(0, exits, true);
    assert.deepEqual(view, expected);
    for (const handle of others) handle.close();
    await closeAll(before, guest);
  },
});
