import { KvmError } from '../../errors.ts';

/** The guest's driver broke the rules of virtio: the device stops until it is reset. `code` is `'ERR_KVM_VIRTIO'`. */
export class VirtioError extends KvmError {
  constructor(message: string) {
    super(message, 'ERR_KVM_VIRTIO');
    this.name = 'VirtioError';
  }
}
