/** Packets of the socket device (virtio 1.2, 5.10.6). */
import { fieldsOf } from '../virtio/chain.ts';

export const HEADER_SIZE = 44;
export const HOST_CID = 2n;
const TYPE_STREAM = 1;

export const OP = { request: 1, response: 2, rst: 3, shutdown: 4, rw: 5, creditUpdate: 6, creditRequest: 7 } as const;
export type Op = (typeof OP)[keyof typeof OP];

/** Flags of a shutdown: the sender will receive no more, send no more. */
export const NO_MORE_RECEIVE = 1;
export const NO_MORE_SEND = 2;

export interface Packet {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly op: Op;
  readonly flags: number;
  /** Bytes that the sender has room for in all, and those that it has passed on. */
  readonly bufferSize: number;
  readonly forwarded: number;
  readonly payload: Uint8Array;
}

export interface ReceivedPacket extends Packet {
  readonly sourceCid: bigint;
  readonly destinationCid: bigint;
  readonly stream: boolean;
}

export function encodeHeader(cid: bigint, packet: Packet): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE);
  const view = fieldsOf(bytes);
  view.setBigUint64(0, HOST_CID, true);
  view.setBigUint64(8, cid, true);
  view.setUint32(16, packet.sourcePort, true);
  view.setUint32(20, packet.destinationPort, true);
  view.setUint32(24, packet.payload.byteLength, true);
  view.setUint16(28, TYPE_STREAM, true);
  view.setUint16(30, packet.op, true);
  view.setUint32(32, packet.flags, true);
  view.setUint32(36, packet.bufferSize, true);
  view.setUint32(40, packet.forwarded >>> 0, true);
  return bytes;
}

/** @param bytes a copy of what the guest sent: the header, and what it says is the payload */
export function decodePacket(bytes: Uint8Array): ReceivedPacket | undefined {
  if (bytes.byteLength < HEADER_SIZE) return undefined;
  const view = fieldsOf(bytes);
  const length = view.getUint32(24, true);
  if (length > bytes.byteLength - HEADER_SIZE) return undefined;
  return {
    sourceCid: view.getBigUint64(0, true),
    destinationCid: view.getBigUint64(8, true),
    sourcePort: view.getUint32(16, true),
    destinationPort: view.getUint32(20, true),
    stream: view.getUint16(28, true) === TYPE_STREAM,
    op: view.getUint16(30, true) as Op,
    flags: view.getUint32(32, true),
    bufferSize: view.getUint32(36, true),
    forwarded: view.getUint32(40, true),
    payload: bytes.subarray(HEADER_SIZE, HEADER_SIZE + length),
  };
}
