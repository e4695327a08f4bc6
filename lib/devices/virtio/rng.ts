/** virtio-rng (virtio 1.2, 5.4): random bytes of the host's generator. */
import { randomFillSync } from 'node:crypto';
import { VirtioDevice } from './device.ts';
import type { Virtqueue } from './queue.ts';

/** More than this at a time would keep the event loop; drivers ask again. */
const MAX_REQUEST = 65536;

export interface VirtioRngOptions {
  /** Fills a view. Default: node:crypto's generator. */
  readonly source?: (view: Uint8Array) => void;
}

export class VirtioRng extends VirtioDevice {
  readonly name = 'virtio-rng';
  readonly id = 4;
  readonly features = 0n;
  readonly queueSizes = [64];
  readonly #source: (view: Uint8Array) => void;

  constructor({
    source = (view) => {
      randomFillSync(view);
    },
  }: VirtioRngOptions = {}) {
    super();
    this.#source = source;
  }

  config(): Uint8Array {
    return new Uint8Array();
  }

  protected handle(_index: number, queue: Virtqueue): void {
    do {
      for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) {
        let written = 0;
        for (const view of chain.writable) {
          const piece = view.subarray(0, MAX_REQUEST - written);
          this.#source(piece);
          written += piece.byteLength;
          if (written === MAX_REQUEST) break;
        }
        queue.push(chain, written);
      }
    } while (!queue.drained());
    this.host?.signal(queue);
  }
}
