// Port and MMIO exits handled in the thread that runs the vCPU: each is decoded, looked at, and answered.
import { timed } from './harness/clock.mjs';
import { BOTH_GUEST, handle, MMIO_GUEST, PIO_GUEST } from './harness/exit-guests.mjs';
import { makeGuest } from './harness/guest.mjs';

export default {
  name: 'exit-sync',
  what: 'one PIO and one MMIO exit handled in JavaScript, by runSync()',
  async run(bench) {
    bench.pin();
    const program = bench.program('exit-sync');
    for (const [name, code] of [
      ['pio', PIO_GUEST],
      ['mmio', MMIO_GUEST],
      ['both', BOTH_GUEST],
    ]) {
      const guest = makeGuest(bench.api, code);
      const { vcpu } = guest;
      await bench.compare({
        name: `exit-sync ${name}`,
        target: { host: '<= 1.05', lab: '<= 1.25' },
        ours: (n) =>
          timed(() => {
            for (let i = 0; i < n; i++) handle(vcpu.runSync());
          }),
        baseline: async (n) => (await program.call(name, n))[0],
      });
      guest.close();
    }
  },
};
