/**
 * Raw frames of a network device, seen as they go by and put in as if somebody had sent them: AF_PACKET
 * (packet(7)). Frames carry the kernel's virtio-net header (10 bytes), so that large segments and checksums
 * that are not computed yet stay what they are.
 */
import { checked, checkedOrAgain, deviceIndex, libc, type SystemCallError } from "./libc.ts";
import { readable } from "./socket.ts";

const AF_PACKET = 17;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const ETH_P_ALL_NETWORK_ORDER = 0x0300;
const SOL_PACKET = 263;
const PACKET_VNET_HDR = 15;
const PACKET_OUTGOING = 4;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const MSG_DONTWAIT = 0x40;
const ADDRESS_BYTES = 20;
/** The virtio-net header and the largest frame that offloading makes. */
export const MAX_FRAME_BYTES = 10 + 14 + 65_536 + 8;
const RECEIVE_BUFFER_BYTES = 4 << 20;

export class PacketSocket {
  private readonly fd: number;
  private readonly buffer = new Uint8Array(MAX_FRAME_BYTES);
  private readonly from = new Uint8Array(ADDRESS_BYTES);

  /** Needs CAP_NET_RAW. @throws SystemCallError, or an Error that names a device which is not there */
  constructor(device: string) {
    const index = deviceIndex(device);
    this.fd = checked("socket(AF_PACKET)", libc.socket(AF_PACKET, SOCK_RAW_CLOEXEC, 0));
    try {
      const one = Int32Array.of(1);
      checked("setsockopt(PACKET_VNET_HDR)", libc.setsockopt(this.fd, SOL_PACKET, PACKET_VNET_HDR, one, 4));
      // Without the right to it the kernel's default must do.
      libc.setsockopt(this.fd, SOL_SOCKET, SO_RCVBUFFORCE, Int32Array.of(RECEIVE_BUFFER_BYTES), 4);
      // struct sockaddr_ll: family, protocol, interface; nothing is heard before.
      const address = new DataView(new ArrayBuffer(ADDRESS_BYTES));
      address.setUint16(0, AF_PACKET, true);
      address.setUint16(2, ETH_P_ALL_NETWORK_ORDER, true);
      address.setInt32(4, index, true);
      checked("bind(AF_PACKET)", libc.bind(this.fd, new Uint8Array(address.buffer), ADDRESS_BYTES));
    } catch (error) {
      libc.close(this.fd);
      throw error;
    }
  }

  /**
   * The next frame that this host has sent out of the device, if there is one: of a tap, towards the VM. The
   * others are passed over.
   */
  nextOutgoing(): Uint8Array | undefined {
    return this.next(true);
  }

  /** The next frame that has come in by the device, if there is one. The others are passed over. */
  nextIncoming(): Uint8Array | undefined {
    return this.next(false);
  }

  /** Waits until there is a frame, of either way, but not longer than `timeoutMs`. */
  wait(timeoutMs: number): void {
    readable(this.fd, timeoutMs);
  }

  private next(outgoing: boolean): Uint8Array | undefined {
    for (let complained = false; ; ) {
      const length = Uint32Array.of(ADDRESS_BYTES);
      const result = libc.recvfrom(this.fd, this.buffer, this.buffer.length, MSG_DONTWAIT, this.from, length);
      let count: number;
      try {
        count = checkedOrAgain("recvfrom", result);
      } catch (error) {
        // The device was set down, or is gone. Said once; frames come again when it is up.
        if (complained || !["ENETDOWN", "ENXIO", "ENODEV"].includes((error as SystemCallError).code))
          throw error;
        complained = true;
        continue;
      }
      if (count < 0) return undefined;
      if ((this.from[10] === PACKET_OUTGOING) === outgoing) return this.buffer.slice(0, count);
    }
  }

  /**
   * Sends a frame out of the device; of a tap, to the VM. False: there was no room, and it is lost, as on any
   * network.
   */
  send(frame: Uint8Array): boolean {
    try {
      return checkedOrAgain("send", libc.send(this.fd, frame, frame.length, MSG_DONTWAIT)) >= 0;
    } catch {
      return false;
    }
  }

  close(): void {
    libc.close(this.fd);
  }
}
