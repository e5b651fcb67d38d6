/**
 * Questions to the kernel about network devices: rtnetlink(7), one at a time. A question returns when the
 * kernel has answered it; there is no time for processes of iproute2 while a guest waits. What is seen is the
 * network namespace of this process; /sys/class/net may show another one.
 */
import { endianness } from "node:os";
import { checked, libc, SystemCallError } from "./libc.ts";

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_ROUTE = 0;
const MSG_DONTWAIT = 0x40;

// linux/netlink.h
const NLM_F_REQUEST = 0x1;
const NLM_F_ACK = 0x4;
export const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const HEADER_BYTES = 16;
/** More than one message of a long list has. */
const ANSWER_BYTES = 1 << 16;
const TYPE_MASK = 0x3fff;

export const little = endianness() === "LE";

/** struct nlattr: length with this header, type; padded to four bytes. */
export function attribute(type: number, value: Uint8Array): Uint8Array {
  const bytes = new Uint8Array((4 + value.length + 3) & ~3);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, 4 + value.length, little);
  view.setUint16(2, type, little);
  bytes.set(value, 4);
  return bytes;
}

/** The attributes in a run of them, by type. */
export function attributes(bytes: Uint8Array): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at + 4 <= bytes.length; ) {
    const length = view.getUint16(at, little);
    if (length < 4 || at + length > bytes.length) break;
    found.set(view.getUint16(at + 2, little) & TYPE_MASK, bytes.subarray(at + 4, at + length));
    at += (length + 3) & ~3;
  }
  return found;
}

/**
 * One request, and the messages that answer it, without their headers; none where the kernel has only said
 * that it is done.
 * @param what for the error, such as `looking at tap0`
 * @throws SystemCallError with the kernel's reason
 */
export function askKernel(
  what: string,
  type: number,
  flags: number,
  ...parts: readonly Uint8Array[]
): Uint8Array[] {
  const length = parts.reduce((sum, { byteLength }) => sum + byteLength, HEADER_BYTES);
  const message = new Uint8Array(length);
  const header = new DataView(message.buffer);
  header.setUint32(0, length, little);
  header.setUint16(4, type, little);
  header.setUint16(6, NLM_F_REQUEST | NLM_F_ACK | flags, little);
  let at = HEADER_BYTES;
  for (const part of parts) {
    message.set(part, at);
    at += part.byteLength;
  }
  const fd = checked("socket(AF_NETLINK)", libc.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_ROUTE));
  try {
    checked(what, libc.send(fd, message, length, 0));
    return answers(what, fd);
  } finally {
    libc.close(fd);
  }
}

/**
 * The answers are there when the call that sends the request returns; the next part of a long list, when the
 * one before was read.
 */
function answers(what: string, fd: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  const buffer = new Uint8Array(ANSWER_BYTES);
  for (;;) {
    const count = checked(what, libc.recv(fd, buffer, buffer.length, MSG_DONTWAIT));
    const view = new DataView(buffer.buffer, 0, count);
    for (let at = 0; at + HEADER_BYTES <= count; ) {
      const length = view.getUint32(at, little);
      if (length < HEADER_BYTES || at + length > count)
        throw new Error(`${what}: the kernel gave an answer of ${count} bytes that is none`);
      const type = view.getUint16(at + 4, little);
      if (type === NLMSG_ERROR || type === NLMSG_DONE) {
        const code = length >= HEADER_BYTES + 4 ? -view.getInt32(at + HEADER_BYTES, little) : 0;
        if (code !== 0) throw new SystemCallError(what, code);
        return found;
      }
      found.push(buffer.slice(at + HEADER_BYTES, at + length));
      // After the only message of an answer comes the acknowledgement, in a message of its own.
      at += (length + 3) & ~3;
    }
  }
}
