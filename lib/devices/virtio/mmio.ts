/** The virtio-mmio transport, version 2 (virtio 1.2, 4.2). */
import type { DeviceMemory, InterruptLine, MmioDevice } from '../ports.ts';
import { fieldsOf } from './chain.ts';
import type { VirtioDevice, VirtioHost } from './device.ts';
import { VirtioError } from './error.ts';
import { FEATURE_EVENT_INDEX, FEATURE_INDIRECT, Virtqueue } from './queue.ts';

const MAGIC = 0x7472_6976;
const VERSION = 2;
const VENDOR = 0x4d56_4b4e; // 'NKVM'
const FEATURE_VERSION_1 = 1n << 32n;

/** Where a driver writes the number of a queue with new requests. */
export const QUEUE_NOTIFY = 0x50;
/** Why there was an interrupt; read by the driver's handler. */
export const INTERRUPT_STATUS = 0x60;
export const INTERRUPT_ACK = 0x64;
const CONFIG = 0x100;

const INTERRUPT_USED = 1;
const INTERRUPT_CONFIG = 2;

const STATUS_DRIVER_OK = 4;
const STATUS_FEATURES_OK = 8;
const STATUS_NEEDS_RESET = 0x40;

interface QueueRegisters {
  size: number;
  ready: boolean;
  /** Low and high halves of the three addresses. */
  descriptors: [number, number];
  driver: [number, number];
  device: [number, number];
}

export interface VirtioMmioOptions {
  readonly memory: DeviceMemory;
  /** Edge triggered: pulsed for each interrupt. */
  readonly line: InterruptLine;
  /** The driver broke a rule, and the device waits for a reset. */
  readonly onBroken?: (error: VirtioError) => void;
}

/** The registers of one device. */
export class VirtioMmio implements MmioDevice {
  readonly name: string;
  readonly device: VirtioDevice;
  readonly #options: VirtioMmioOptions;
  readonly #features: bigint;
  #deviceFeaturesSelect = 0;
  #driverFeaturesSelect = 0;
  #driverFeatures = 0n;
  #queueSelect = 0;
  #queues: QueueRegisters[] = [];
  #status = 0;
  #interruptStatus = 0;
  #configGeneration = 0;

  constructor(device: VirtioDevice, options: VirtioMmioOptions) {
    this.name = device.name;
    this.device = device;
    this.#options = options;
    this.#features = device.features | FEATURE_VERSION_1 | FEATURE_INDIRECT | FEATURE_EVENT_INDEX;
    this.#clear();
  }

  /** The driver's status bits. */
  get status(): number {
    return this.#status;
  }

  readMmio(offset: number, data: Uint8Array): void {
    if (offset >= CONFIG) {
      this.#readConfig(offset - CONFIG, data);
      return;
    }
    data.fill(0);
    if (data.byteLength === 4 && offset % 4 === 0) fieldsOf(data).setUint32(0, this.#read(offset), true);
  }

  writeMmio(offset: number, data: Uint8Array): void {
    if (offset >= CONFIG) this.device.writeConfig(offset - CONFIG, data);
    else if (data.byteLength === 4 && offset % 4 === 0) this.#write(offset, fieldsOf(data).getUint32(0, true));
  }

  /** The driver wrote a queue's number to {@link QUEUE_NOTIFY}, by whatever way that comes. */
  notify(index: number): void {
    if ((this.#status & STATUS_DRIVER_OK) !== 0) this.device.notify(index);
  }

  /** The state after power-on. */
  reset(): void {
    this.#clear();
    this.device.reset();
  }

  #clear(): void {
    this.#status = this.#interruptStatus = this.#queueSelect = 0;
    this.#deviceFeaturesSelect = this.#driverFeaturesSelect = 0;
    this.#driverFeatures = 0n;
    this.#queues = this.device.queueSizes.map(() => ({
      size: 0,
      ready: false,
      descriptors: [0, 0],
      driver: [0, 0],
      device: [0, 0],
    }));
  }

  #read(offset: number): number {
    const queue = this.#queues[this.#queueSelect];
    switch (offset) {
      case 0x00:
        return MAGIC;
      case 0x04:
        return VERSION;
      case 0x08:
        return this.device.id;
      case 0x0c:
        return VENDOR;
      case 0x10:
        return this.#deviceFeaturesSelect > 1
          ? 0
          : Number((this.#features >> BigInt(32 * this.#deviceFeaturesSelect)) & 0xffff_ffffn);
      case 0x34:
        return this.device.queueSizes[this.#queueSelect] ?? 0;
      case 0x44:
        return queue?.ready === true ? 1 : 0;
      case INTERRUPT_STATUS:
        return this.#interruptStatus;
      case 0x70:
        return this.#status;
      // No shared memory regions: their length reads as all ones.
      case 0xb0:
      case 0xb4:
      case 0xb8:
      case 0xbc:
        return 0xffff_ffff;
      case 0xfc:
        return this.#configGeneration;
      default:
        return 0;
    }
  }

  #write(offset: number, value: number): void {
    switch (offset) {
      case 0x14:
        this.#deviceFeaturesSelect = value;
        return;
      case 0x20:
        this.#setDriverFeatures(value);
        return;
      case 0x24:
        this.#driverFeaturesSelect = value;
        return;
      case 0x30:
        this.#queueSelect = value;
        return;
      case QUEUE_NOTIFY:
        this.notify(value);
        return;
      case INTERRUPT_ACK:
        this.#interruptStatus &= ~value;
        return;
      case 0x70:
        this.#setStatus(value);
        return;
    }
    const queue = this.#queues[this.#queueSelect];
    if (queue === undefined) return;
    if (offset === 0x44) queue.ready = (value & 1) !== 0;
    // Once it is ready, nothing of a queue may change.
    if (queue.ready) return;
    switch (offset) {
      case 0x38:
        queue.size = value;
        break;
      case 0x80:
        queue.descriptors[0] = value;
        break;
      case 0x84:
        queue.descriptors[1] = value;
        break;
      case 0x90:
        queue.driver[0] = value;
        break;
      case 0x94:
        queue.driver[1] = value;
        break;
      case 0xa0:
        queue.device[0] = value;
        break;
      case 0xa4:
        queue.device[1] = value;
        break;
    }
  }

  #setDriverFeatures(value: number): void {
    if (this.#driverFeaturesSelect > 1 || (this.#status & STATUS_FEATURES_OK) !== 0) return;
    const shift = BigInt(32 * this.#driverFeaturesSelect);
    this.#driverFeatures = (this.#driverFeatures & ~(0xffff_ffffn << shift)) | (BigInt(value) << shift);
  }

  #setStatus(value: number): void {
    if (value === 0) {
      this.reset();
      return;
    }
    let status = value & 0xff;
    const acceptable =
      (this.#driverFeatures & ~this.#features) === 0n && (this.#driverFeatures & FEATURE_VERSION_1) !== 0n;
    // A driver that reads the bit back as 0 knows that its features were refused.
    if ((status & STATUS_FEATURES_OK) !== 0 && !acceptable) status &= ~STATUS_FEATURES_OK;
    const starts = (status & ~this.#status & STATUS_DRIVER_OK) !== 0;
    this.#status = status | (this.#status & STATUS_NEEDS_RESET);
    if (starts) this.#activate();
  }

  #activate(): void {
    const host: VirtioHost = {
      memory: this.#options.memory,
      signal: (queue) => {
        if (queue.interruptWanted()) this.#interrupt(INTERRUPT_USED);
      },
      configChanged: () => {
        this.#configGeneration = (this.#configGeneration + 1) >>> 0;
        this.#interrupt(INTERRUPT_CONFIG);
      },
      broken: (error) => this.#break(error),
    };
    try {
      if ((this.#status & STATUS_FEATURES_OK) === 0)
        throw new VirtioError('the driver started without agreeing on features');
      const queues = this.#queues.map((queue, index) => (queue.ready ? this.#makeQueue(queue, index) : undefined));
      this.device.activate(host, queues, this.#driverFeatures);
    } catch (error) {
      if (!(error instanceof VirtioError)) throw error;
      this.#break(error);
    }
  }

  #makeQueue({ size, descriptors, driver, device }: QueueRegisters, index: number): Virtqueue {
    if (size > this.device.queueSizes[index]!)
      throw new VirtioError(
        `queue ${index} has ${size} entries, more than the ${this.device.queueSizes[index]} that there may be`,
      );
    const address = ([low, high]: [number, number]): number => {
      if (high >= 2 ** 20) throw new VirtioError(`queue ${index} lies beyond 52 bits`);
      return high * 2 ** 32 + low;
    };
    return new Virtqueue(
      this.#options.memory,
      {
        size,
        descriptors: address(descriptors),
        driver: address(driver),
        device: address(device),
      },
      this.#driverFeatures,
    );
  }

  #break(error: VirtioError): void {
    this.#status |= STATUS_NEEDS_RESET;
    this.#interrupt(INTERRUPT_CONFIG);
    this.#options.onBroken?.(error);
  }

  #interrupt(cause: number): void {
    this.#interruptStatus |= cause;
    this.#options.line.set(true);
    this.#options.line.set(false);
  }

  #readConfig(offset: number, data: Uint8Array): void {
    const config = this.device.config();
    data.fill(0);
    data.set(
      config.subarray(Math.min(offset, config.byteLength), Math.min(offset + data.byteLength, config.byteLength)),
    );
  }
}
