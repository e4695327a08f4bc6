const cell = new Int32Array(new SharedArrayBuffer(4));

/**
 * Makes what this thread wrote visible to the vCPUs before it reads on. x86 keeps stores in order and loads in order;
 * what it may turn round is a store and a later load, and the ring's protocol to stay silent rests on that order.
 */
export function fence(): void {
  Atomics.exchange(cell, 0, 0);
}
