/** Tells a bridge what is behind one of its ports, by rtnetlink(7). Needs CAP_NET_ADMIN. */
import { deviceIndex, SystemCallError } from "./libc.ts";
import { askKernel, attribute, little } from "./rtnetlink.ts";

// linux/netlink.h, linux/rtnetlink.h
const NLM_F_REPLACE = 0x100;
const NLM_F_CREATE = 0x400;
const RTM_NEWNEIGH = 28;
const RTM_DELNEIGH = 29;

// linux/neighbour.h
const AF_BRIDGE = 7;
const NTF_MASTER = 0x04;
const NUD_REACHABLE = 0x02;
const NDA_LLADDR = 2;

/**
 * As `bridge fdb replace MAC dev DEVICE master dynamic`: frames for this address leave the bridge by this port, until it is heard from elsewhere.
 * @param mac `52:54:00:12:34:56`
 * @throws an Error that names a device which is not there, or SystemCallError
 */
export function learnBehind(device: string, mac: string): void {
  const what = `telling the bridge that ${mac} is behind ${device}`;
  askKernel(what, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, neighbour(device), address(mac));
}

/** As `bridge fdb del MAC dev DEVICE master`. Does nothing where the bridge believes it elsewhere, or the device is no port. @throws as `learnBehind` */
export function forgetBehind(device: string, mac: string): void {
  try {
    askKernel(
      `telling the bridge that ${mac} is not behind ${device}`,
      RTM_DELNEIGH,
      0,
      neighbour(device),
      address(mac),
    );
  } catch (error) {
    if (!(error instanceof SystemCallError) || !["ENOENT", "EINVAL", "EOPNOTSUPP"].includes(error.code))
      throw error;
  }
}

/** struct ndmsg. */
function neighbour(device: string): Uint8Array {
  const view = new DataView(new ArrayBuffer(12));
  view.setUint8(0, AF_BRIDGE);
  view.setInt32(4, deviceIndex(device), little);
  view.setUint16(8, NUD_REACHABLE, little);
  view.setUint8(10, NTF_MASTER);
  return new Uint8Array(view.buffer);
}

function address(mac: string): Uint8Array {
  const bytes = Uint8Array.from(mac.split(":"), (byte) => Number.parseInt(byte, 16));
  return attribute(NDA_LLADDR, bytes);
}
