/** From a queue of the guest's to a stream: what the guest sends, held back when nobody reads. */
import type { Duplex } from 'node:stream';
import { copyOf } from './chain.ts';
import type { Virtqueue } from './queue.ts';

/** One request is copied in pieces of at most this many bytes, so that a huge one does not take as much again. */
const MAX_PIECE = 65536;

/** Moves whole requests from a queue into `stream`, until it says that it is full. @returns whether it is */
export function drainInto(queue: Virtqueue, stream: Duplex): boolean {
  for (;;) {
    for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) {
      let room = true;
      for (const view of chain.readable) {
        for (let at = 0; at < view.byteLength; at += MAX_PIECE) {
          const length = Math.min(MAX_PIECE, view.byteLength - at);
          if (!stream.readableEnded && !stream.destroyed)
            room = stream.push(Buffer.from(copyOf([view.subarray(at)], length)));
        }
      }
      queue.push(chain, 0);
      if (!room) return true;
    }
    if (queue.drained()) return false;
  }
}
