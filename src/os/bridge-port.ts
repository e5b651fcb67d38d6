/** Tells a bridge what is behind one of its ports, by rtnetlink(7). Needs CAP_NET_ADMIN. */
import { deviceIndex, SystemCallError } from "./libc.ts";
import { askKernel, attribute, little } from "./rtnetlink.ts";

// linux/netlink.h, linux/rtnetlink.h
const NLM_F_REPLACE = 0x100;
const NLM_F_CREATE = 0x400;
const RTM_NEWNEIGH = 28;
const RTM_DELNEIGH = 29;
const RTM_GETNEIGH = 30;

// linux/neighbour.h
const AF_BRIDGE = 7;
const NTF_MASTER = 0x04;
const NUD_REACHABLE = 0x02;
/** Somebody has said it, and it does not age: static, or local. */
const NUD_SAID = 0x40 | 0x80;
const NDA_LLADDR = 2;

/**
 * As `bridge fdb replace MAC dev DEVICE master dynamic`: frames for this address leave the bridge by this
 * port, until it is heard from elsewhere. A static entry that says so already stays.
 * @param mac `52:54:00:12:34:56`
 * @throws an Error that names a device which is not there, or SystemCallError
 */
export function learnBehind(device: string, mac: string): void {
  if (isSaid(device, mac)) return;
  const what = `telling the bridge that ${mac} is behind ${device}`;
  askKernel(what, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, neighbour(device), address(mac));
}

/**
 * As `bridge fdb del MAC dev DEVICE master`. Does nothing where the bridge believes it elsewhere, where an
 * administrator has made a static entry, or the device is no port. @throws as `learnBehind`
 */
export function forgetBehind(device: string, mac: string): void {
  if (isSaid(device, mac)) return;
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

/** Whether the bridge has an entry that it has not learnt, of this address and this port. */
function isSaid(device: string, mac: string): boolean {
  const port = neighbour(device, 0);
  try {
    const [found] = askKernel(`looking for ${mac}`, RTM_GETNEIGH, 0, port, address(mac));
    if (found === undefined) return false;
    const [entry, asked] = [found, port].map((bytes) => new DataView(bytes.buffer, bytes.byteOffset)) as [
      DataView,
      DataView,
    ];
    return (
      (entry.getUint16(8, little) & NUD_SAID) !== 0 && entry.getInt32(4, little) === asked.getInt32(4, little)
    );
  } catch (error) {
    // There is none, the device is no port, or the kernel is older than 5.0.
    if (error instanceof SystemCallError) return false;
    throw error;
  }
}

/** struct ndmsg. */
function neighbour(device: string, state = NUD_REACHABLE): Uint8Array {
  const view = new DataView(new ArrayBuffer(12));
  view.setUint8(0, AF_BRIDGE);
  view.setInt32(4, deviceIndex(device), little);
  view.setUint16(8, state, little);
  view.setUint8(10, NTF_MASTER);
  return new Uint8Array(view.buffer);
}

function address(mac: string): Uint8Array {
  const bytes = Uint8Array.from(mac.split(":"), (byte) => Number.parseInt(byte, 16));
  return attribute(NDA_LLADDR, bytes);
}
