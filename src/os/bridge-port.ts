/**
 * Puts a network device into a bridge and tells the bridge what is behind it, by rtnetlink(7): in a failover there is no time for two processes of iproute2.
 * Both calls return when the kernel has done it. They need CAP_NET_ADMIN.
 */
import { endianness } from "node:os";
import { checked, deviceIndex, libc, SystemCallError } from "./libc.ts";

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_ROUTE = 0;
const MSG_DONTWAIT = 0x40;

// linux/netlink.h, linux/rtnetlink.h
const NLM_F_REQUEST = 0x1;
const NLM_F_ACK = 0x4;
const NLM_F_REPLACE = 0x100;
const NLM_F_CREATE = 0x400;
const NLMSG_ERROR = 2;
const HEADER_BYTES = 16;
const RTM_SETLINK = 19;
const RTM_NEWNEIGH = 28;
const IFLA_MASTER = 10;

// linux/neighbour.h
const AF_BRIDGE = 7;
const NTF_MASTER = 0x04;
const NUD_REACHABLE = 0x02;
const NDA_LLADDR = 2;

const little = endianness() === "LE";

/** As `ip link set dev DEVICE master BRIDGE`. @throws an Error that names a device which is not there, or SystemCallError */
export function joinBridge(device: string, bridge: string): void {
  const link = new DataView(new ArrayBuffer(16));
  link.setInt32(4, deviceIndex(device), little);
  const master = new DataView(new ArrayBuffer(4));
  master.setUint32(0, deviceIndex(bridge), little);
  ask(`putting ${device} into ${bridge}`, RTM_SETLINK, 0, link, attribute(IFLA_MASTER, master));
}

/**
 * As `bridge fdb replace MAC dev DEVICE master dynamic`: frames for this address leave the bridge by this port, until it is heard from elsewhere.
 * @param mac `52:54:00:12:34:56`
 */
export function learnBehind(device: string, mac: string): void {
  const neighbour = new DataView(new ArrayBuffer(12));
  neighbour.setUint8(0, AF_BRIDGE);
  neighbour.setInt32(4, deviceIndex(device), little);
  neighbour.setUint16(8, NUD_REACHABLE, little);
  neighbour.setUint8(10, NTF_MASTER);
  const address = new DataView(Uint8Array.from(mac.split(":"), (byte) => Number.parseInt(byte, 16)).buffer);
  ask(
    `telling the bridge that ${mac} is behind ${device}`,
    RTM_NEWNEIGH,
    NLM_F_CREATE | NLM_F_REPLACE,
    neighbour,
    attribute(NDA_LLADDR, address),
  );
}

/** struct nlattr: length with this header, type; padded to four bytes. */
function attribute(type: number, value: DataView): DataView {
  const view = new DataView(new ArrayBuffer((4 + value.byteLength + 3) & ~3));
  view.setUint16(0, 4 + value.byteLength, little);
  view.setUint16(2, type, little);
  bytesOf(view).set(bytesOf(value), 4);
  return view;
}

/** One request, and the kernel's answer, which is there when the call that sends it returns. */
function ask(what: string, type: number, flags: number, ...parts: readonly DataView[]): void {
  const length = parts.reduce((sum, { byteLength }) => sum + byteLength, HEADER_BYTES);
  const message = new DataView(new ArrayBuffer(length));
  message.setUint32(0, length, little);
  message.setUint16(4, type, little);
  message.setUint16(6, NLM_F_REQUEST | NLM_F_ACK | flags, little);
  let at = HEADER_BYTES;
  for (const part of parts) {
    bytesOf(message).set(bytesOf(part), at);
    at += part.byteLength;
  }
  const fd = checked("socket(AF_NETLINK)", libc.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_ROUTE));
  try {
    checked(what, libc.send(fd, bytesOf(message), length, 0));
    const reply = new DataView(new ArrayBuffer(4096));
    const count = checked(what, libc.recv(fd, bytesOf(reply), reply.byteLength, MSG_DONTWAIT));
    if (count < HEADER_BYTES + 4 || reply.getUint16(4, little) !== NLMSG_ERROR)
      throw new Error(`${what}: the kernel gave an answer of ${count} bytes that is none`);
    const error = -reply.getInt32(HEADER_BYTES, little);
    if (error !== 0) throw new SystemCallError(what, error);
  } finally {
    libc.close(fd);
  }
}

function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer);
}
