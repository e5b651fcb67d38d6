/**
 * Stream sockets as plain descriptors: pairs, large buffers, blocking reads, and handing a descriptor to
 * another process.
 */
import type { Socket } from "node:net";
import { checked, checkedOrAgain, libc } from "./libc.ts";
import { Mapping } from "./mapping.ts";

const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_SNDBUFFORCE = 32;
const SO_SNDBUF = 7;
const MSG_NOSIGNAL = 0x4000;
const MSG_DONTWAIT = 0x40;
const SHUT_RDWR = 2;
const POLLIN = 1;
const POLLERR_OR_HUP = 0x18;

/** A connected pair of unix stream sockets. The caller closes both. */
export function socketPair(): [number, number] {
  const fds = new Int32Array(2);
  checked("socketpair", libc.socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, fds));
  return [fds[0]!, fds[1]!];
}

/**
 * Asks for a send buffer of `bytes`. A sender over AF_UNIX is limited by its own send buffer alone, 208 KiB
 * by default. Without CAP_NET_ADMIN the kernel caps the value at net.core.wmem_max; that costs speed only.
 */
export function setSendBuffer(fd: number, bytes: number): void {
  const value = Int32Array.of(bytes);
  if (libc.setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, value, 4) < 0)
    checked("setsockopt(SO_SNDBUF)", libc.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, value, 4));
}

/**
 * Reads what is there into `target`, waiting for at least one byte. Returns the count; 0 at the end of the
 * stream.
 */
export function receive(fd: number, target: Uint8Array): number {
  for (;;) {
    const count = checkedOrAgain("recv", libc.recv(fd, target, target.length, 0));
    if (count >= 0) return count;
  }
}

/** Whether `fd` becomes readable (or ends) within `timeoutMs`. */
export function readable(fd: number, timeoutMs: number): boolean {
  const entry = new Int32Array(2);
  entry[0] = fd;
  entry[1] = POLLIN;
  return checkedOrAgain("poll", libc.poll(entry, 1, timeoutMs)) > 0;
}

/**
 * Whether the other end of a unix socket has gone entirely, or this one is closed. Node hears of that only
 * where it reads or writes, and has no more to read of one that has closed its half before.
 */
export function hungUp(socket: Socket): boolean {
  const { fd } = (socket as unknown as { _handle?: { fd: number } | null })._handle ?? { fd: -1 };
  if (fd < 0) return true;
  const entry = new Int32Array(2);
  entry[0] = fd;
  if (checkedOrAgain("poll", libc.poll(entry, 1, 0)) <= 0) return false;
  // struct pollfd: the events that came are the upper half of the second word.
  return ((entry[1]! >>> 16) & POLLERR_OR_HUP) !== 0;
}

/** Writes all of `bytes`, waiting as long as it takes. */
export function sendAll(fd: number, bytes: Uint8Array): void {
  let sent = 0;
  while (sent < bytes.length) {
    const count = checkedOrAgain(
      "send",
      libc.send(fd, bytes.subarray(sent), bytes.length - sent, MSG_NOSIGNAL),
    );
    if (count > 0) sent += count;
  }
}

/**
 * Writes what can be written without waiting. @returns bytes taken. @throws SystemCallError, EAGAIN if it can
 * take none at present
 */
export function sendNow(fd: number, bytes: Uint8Array): number {
  return checked("send", libc.send(fd, bytes, bytes.length, MSG_NOSIGNAL | MSG_DONTWAIT));
}

/** Ends both directions; a read that another thread is blocked in returns 0. The descriptor stays open. */
export function shutdownSocket(fd: number): void {
  libc.shutdown(fd, SHUT_RDWR);
}

export function closeDescriptor(fd: number): void {
  libc.close(fd);
}

/**
 * Sends `bytes` over the unix socket `fd` with a copy of the descriptor `passed` (SCM_RIGHTS).
 * `bytes` must be short enough to go in one piece (at most 3 KiB).
 */
export function sendWithDescriptor(fd: number, bytes: Uint8Array, passed: number): void {
  if (bytes.length > 3072)
    throw new RangeError(`a message with a descriptor may have 3072 bytes, not ${bytes.length}`);
  // struct msghdr (56 bytes) at 0, struct iovec at 64, control message at 128, data at 1024; x86-64 and arm64
  // layouts agree.
  const scratch = Mapping.anonymous(4096);
  try {
    const view = new DataView(scratch.bytes.buffer);
    const at = (offset: number) => scratch.address + BigInt(offset);
    scratch.bytes.set(bytes, 1024);
    view.setBigUint64(64, at(1024), true);
    view.setBigUint64(72, BigInt(bytes.length), true);
    view.setBigUint64(16, at(64), true); // msg_iov
    view.setBigUint64(24, 1n, true); // msg_iovlen
    view.setBigUint64(32, at(128), true); // msg_control
    view.setBigUint64(40, 24n, true); // msg_controllen
    view.setBigUint64(128, 20n, true); // cmsg_len
    view.setInt32(136, SOL_SOCKET, true);
    view.setInt32(140, SCM_RIGHTS, true);
    view.setInt32(144, passed, true);
    const sent = checked("sendmsg", libc.sendmsg(fd, scratch.address, MSG_NOSIGNAL | MSG_DONTWAIT));
    if (sent !== bytes.length) throw new Error(`sendmsg sent ${sent} of ${bytes.length} bytes`);
  } finally {
    scratch.close();
  }
}
