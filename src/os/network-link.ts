/** A network device as the kernel describes it: what it is, its state, and whose port it is. */
import { SystemCallError } from "./libc.ts";
import { askKernel, attribute, attributes, little, NLM_F_DUMP } from "./rtnetlink.ts";

// linux/rtnetlink.h, linux/if_link.h, linux/if.h
const RTM_NEWLINK = 16;
const RTM_GETLINK = 18;
const INFO_BYTES = 16;
const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_MASTER = 10;
const IFLA_LINKINFO = 18;
const IFLA_STATS64 = 23;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const IFLA_INFO_SLAVE_KIND = 4;
const IFLA_INFO_SLAVE_DATA = 5;
const IFLA_BRPORT_STATE = 1;
const IFF_UP = 0x1;
const IFF_LOWER_UP = 0x10000;

// linux/if_link.h, of a tun device; linux/if_tun.h
const IFLA_TUN_OWNER = 1;
const IFLA_TUN_GROUP = 2;
const IFLA_TUN_TYPE = 3;
const IFLA_TUN_MULTI_QUEUE = 7;
const IFF_TAP = 2;

export interface TapFact {
  /** User and group that may open it without rights of their own; undefined: it has none. */
  readonly owner: number | undefined;
  readonly group: number | undefined;
  readonly multiQueue: boolean;
}

/** linux/if_bridge.h, in the kernel's order. */
const portStates = ["disabled", "listening", "learning", "forwarding", "blocking"] as const;
export type PortState = (typeof portStates)[number];

export interface NetworkLink {
  /** The kernel's number: the same while it is the same device, whatever it is called. */
  readonly index: number;
  readonly name: string;
  /** Its own MAC address, `52:54:00:12:34:56`; empty without one. */
  readonly mac: string;
  /** `tun`, `bridge`, `veth`, `bond` …; undefined of real devices. */
  readonly kind: string | undefined;
  /** Only of a tap. */
  readonly tap: TapFact | undefined;
  readonly up: boolean;
  /** It can carry frames: of a tap, some process has it open. False while it is down. */
  readonly carrier: boolean;
  readonly mtu: number;
  /** The number of the device whose port it is. */
  readonly master: number | undefined;
  /** Only of a bridge's port: whether the bridge's spanning tree lets frames through. */
  readonly portState: PortState | undefined;
  /** Frames that it has sent: of a tap, that its process has read. */
  readonly sentFrames: bigint;
}

/** The device of that name or number; undefined if there is none. @throws SystemCallError */
export function networkLink(device: string | number): NetworkLink | undefined {
  const info = new Uint8Array(INFO_BYTES);
  if (typeof device === "number") new DataView(info.buffer).setInt32(4, device, little);
  const parts = typeof device === "number" ? [info] : [info, attribute(IFLA_IFNAME, text(device))];
  try {
    return parse(askKernel(`looking at ${device}`, RTM_GETLINK, 0, ...parts)[0]!);
  } catch (error) {
    if (error instanceof SystemCallError && error.code === "ENODEV") return undefined;
    throw error;
  }
}

/** The ports of a bridge, or of whatever else has ports. @throws SystemCallError */
export function portsOf(master: number): NetworkLink[] {
  const wanted = attribute(IFLA_MASTER, word(master));
  const found = askKernel(
    `looking for the ports of ${master}`,
    RTM_GETLINK,
    NLM_F_DUMP,
    new Uint8Array(INFO_BYTES),
    wanted,
  );
  // An old kernel does not heed the wish.
  return found.map(parse).filter((link) => link.master === master);
}

/** As `ip link set dev DEVICE up`. Needs CAP_NET_ADMIN. @throws SystemCallError */
export function setUp(index: number, name: string): void {
  const info = new DataView(new ArrayBuffer(INFO_BYTES));
  info.setInt32(4, index, little);
  info.setUint32(8, IFF_UP, little);
  info.setUint32(12, IFF_UP, little);
  askKernel(`setting ${name} up`, RTM_NEWLINK, 0, new Uint8Array(info.buffer));
}

/** struct ifinfomsg: family, type, index, flags, change; then attributes. */
function parse(message: Uint8Array): NetworkLink {
  const info = viewOf(message);
  const found = attributes(message.subarray(INFO_BYTES));
  const flags = info.getUint32(8, little);
  const linkInfo = attributes(found.get(IFLA_LINKINFO) ?? new Uint8Array());
  const kind = linkInfo.get(IFLA_INFO_KIND);
  const stats = found.get(IFLA_STATS64);
  return {
    index: info.getInt32(4, little),
    name: textOf(found.get(IFLA_IFNAME)!),
    mac: Array.from(found.get(IFLA_ADDRESS) ?? [], (byte) => byte.toString(16).padStart(2, "0")).join(":"),
    kind: kind && textOf(kind),
    tap: tapFact(kind && textOf(kind), linkInfo.get(IFLA_INFO_DATA)),
    up: (flags & IFF_UP) !== 0,
    carrier: (flags & IFF_LOWER_UP) !== 0,
    mtu: wordOf(found.get(IFLA_MTU)) ?? 0,
    master: wordOf(found.get(IFLA_MASTER)),
    portState: portState(linkInfo),
    // The second number of struct rtnl_link_stats64.
    sentFrames: stats === undefined ? 0n : viewOf(stats).getBigUint64(8, little),
  };
}

function tapFact(kind: string | undefined, data: Uint8Array | undefined): TapFact | undefined {
  if (kind !== "tun" || data === undefined) return undefined;
  const found = attributes(data);
  if (found.get(IFLA_TUN_TYPE)?.[0] !== IFF_TAP) return undefined;
  return {
    owner: wordOf(found.get(IFLA_TUN_OWNER)),
    group: wordOf(found.get(IFLA_TUN_GROUP)),
    multiQueue: found.get(IFLA_TUN_MULTI_QUEUE)?.[0] === 1,
  };
}

function portState(linkInfo: Map<number, Uint8Array>): PortState | undefined {
  const kind = linkInfo.get(IFLA_INFO_SLAVE_KIND);
  if (kind === undefined || textOf(kind) !== "bridge") return undefined;
  const state = attributes(linkInfo.get(IFLA_INFO_SLAVE_DATA) ?? new Uint8Array()).get(IFLA_BRPORT_STATE);
  return portStates[state?.[0] ?? 0];
}

function word(value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value, little);
  return new Uint8Array(view.buffer);
}

function wordOf(bytes: Uint8Array | undefined): number | undefined {
  return bytes && viewOf(bytes).getUint32(0, little);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Ended by a zero, as the kernel wants it. */
function text(value: string): Uint8Array {
  return Buffer.from(`${value}\0`, "latin1");
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1").replace(/\0.*$/s, "");
}
