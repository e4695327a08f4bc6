/** One piece of code for the synchronous and the asynchronous way: a generator that yields its system calls. */

export interface Step {
  /** The call in this thread. */
  now(): void;
  /** The same call on a pool thread. */
  later(): Promise<void>;
}

export type Steps<R> = Generator<Step, R, void>;

export function runNow<R>(steps: Steps<R>): R {
  let next = steps.next();
  while (next.done !== true) {
    try {
      next.value.now();
    } catch (error) {
      next = steps.throw(error);
      continue;
    }
    next = steps.next();
  }
  return next.value;
}

export async function runLater<R>(steps: Steps<R>): Promise<R> {
  let next = steps.next();
  while (next.done !== true) {
    try {
      await next.value.later();
    } catch (error) {
      next = steps.throw(error);
      continue;
    }
    next = steps.next();
  }
  return next.value;
}
