// KVM_RUN with immediate_exit set by hand: the guest is not entered, so what is left is the cost of the call.
import { timed } from './harness/clock.mjs';
import { makeGuest } from './harness/guest.mjs';

const SPIN = [0xeb, 0xfe]; // jmp $
/** struct kvm_run begins with request_interrupt_window, then this. */
const IMMEDIATE_EXIT = 1;

export default {
  name: 'run-call',
  what: 'KVM_RUN with immediate_exit: the pure cost of a call',
  async run(bench) {
    bench.pin();
    const guest = makeGuest(bench.api, SPIN);
    const { vcpu } = guest;
    const program = bench.program('run-call');
    const state = new Uint8Array(vcpu.exitPayload.buffer);
    await bench.compare({
      name: 'run-call',
      target: { host: '<= 1.5' },
      ours: (n) =>
        timed(() => {
          for (let i = 0; i < n; i++) {
            state[IMMEDIATE_EXIT] = 1;
            const exit = vcpu.runSync();
            if (exit.reason !== 'interrupted') throw new Error(`unexpected exit: ${exit.reason}`);
          }
        }),
      baseline: async (n) => (await program.call('run', n))[0],
    });
    guest.close();
  },
};
