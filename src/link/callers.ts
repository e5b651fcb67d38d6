/**
 * Who may stand at the door. Somebody without a right to it can open connections as fast as he likes; the
 * other host must get in all the same (I6), and he must learn nothing. Until there are keys, the other host
 * is known by the address from which it comes.
 */
import { isIP, SocketAddress } from "node:net";
import type { Address } from "./link-error.ts";

/** Of what was turned away, one of a kind and address is told in so long. */
const TELL_EVERY_MS = 10_000;
const MOST_TOLD = 256;

/**
 * @param from as a socket gives it. @param peers undefined: the other host's addresses are not known, and
 * everybody is a stranger
 */
export function isPeer(from: string | undefined, peers: readonly Address[] | undefined): boolean {
  return from !== undefined && (peers ?? []).some(({ host }) => plain(host) === plain(from));
}

/** The same text for the same address. */
function plain(host: string): string {
  const mapped = host.replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, "");
  if (isIP(mapped) !== 6) return mapped;
  const [address, zone] = mapped.split("%");
  const { address: short } = new SocketAddress({ address: address!, family: "ipv6" });
  return zone === undefined ? short : `${short}%${zone}`;
}

/**
 * An address to call from, so that the other host knows the caller; undefined where it stands for all of
 * them.
 */
export function callFrom(own: Address | undefined): { localAddress: string } | undefined {
  if (own === undefined || own.host === "0.0.0.0" || plain(own.host) === "::") return undefined;
  return { localAddress: own.host };
}

/** Keeps a log readable, and small, while somebody hammers at the door. */
export class SeldomTold {
  private readonly told = new Map<string, { sinceMs: number; more: number }>();

  /** The sentence as it is to be told now, with how many like it were not; undefined if this one is not. */
  tell(key: string, text: string, nowMs: number): string | undefined {
    const last = this.told.get(key);
    if (last !== undefined && nowMs - last.sinceMs < TELL_EVERY_MS) {
      last.more++;
      return undefined;
    }
    if (last === undefined && this.told.size >= MOST_TOLD) this.told.clear();
    this.told.set(key, { sinceMs: nowMs, more: 0 });
    return last === undefined || last.more === 0 ? text : `${text} (and ${last.more} more like it before)`;
  }
}
