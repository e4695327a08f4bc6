// CLOCK_MONOTONIC, the clock of the C programs too.

/** Nanoseconds that `work` took. */
export function timed(work) {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start);
}

export async function timedAsync(work) {
  const start = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - start);
}
