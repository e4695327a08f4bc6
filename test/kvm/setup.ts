/**
 * Before each test of the kvm ring: what earlier tests left to the garbage collector goes first. Tests compare counts of
 * descriptors and mappings, and a collection in the middle of one would take somebody else's off.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { beforeEach } from 'vitest';
import { native } from '../../lib/native.ts';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

async function settle(): Promise<void> {
  let { mappings: last } = native().census();
  for (let quiet = 0; last > 0 && quiet < 2;) {
    gc();
    // Finalizers run in a turn of their own.
    await new Promise((turn) => setImmediate(turn));
    const { mappings } = native().census();
    quiet = mappings === last ? quiet + 1 : 0;
    last = mappings;
  }
}

await settle();
beforeEach(settle);
