/**
 * Whether the VM's cards can reach anybody on this host, in either role: each tap is looked at now and then,
 * with the bridge whose port it is. A tap that is set down, renamed or taken out of its bridge harms no VM
 * that runs elsewhere, so nothing tells of it before a failover needs it. It decides nothing.
 */
import { type NetworkLink, networkLink, portsOf } from "../../os/network-link.ts";
import { Alarm, type Told } from "./alarm.ts";

/** What is asked of the kernel. */
export interface Links {
  /** The device of that name or number. */
  link(device: string | number): NetworkLink | undefined;
  ports(master: number): NetworkLink[];
}

const LOOK_EVERY_MS = 2_000;

export class TapWatch {
  private readonly cards: readonly CardWatch[];
  private timer: NodeJS.Timeout | undefined;

  constructor(taps: readonly string[], told: Told, links: Links = { link: networkLink, ports: portsOf }) {
    this.cards = taps.map((tap) => new CardWatch(tap, new Alarm(told, "tap"), links));
  }

  /** Looks at once, and then again and again. What it finds first is taken for what is meant. */
  begin(): void {
    this.look();
    this.timer = setInterval(() => this.look(), LOOK_EVERY_MS);
    this.timer.unref();
  }

  look(): void {
    for (const card of this.cards) card.look();
  }

  close(): void {
    clearInterval(this.timer);
  }
}

class CardWatch {
  private readonly tap: string;
  private readonly alarm: Alarm;
  private readonly links: Links;
  private meant: NetworkLink | undefined;

  constructor(tap: string, alarm: Alarm, links: Links) {
    this.tap = tap;
    this.alarm = alarm;
    this.links = links;
  }

  look(): void {
    try {
      const trouble = this.trouble();
      if (trouble === undefined) this.alarm.lower(`tap ${this.tap} is as it was again`);
      else this.alarm.raise(`tap ${this.tap} ${trouble}`);
    } catch (error) {
      this.alarm.raise(`tap ${this.tap} cannot be looked at: ${(error as Error).message}`);
    }
  }

  /** What is wrong, and what to do. */
  private trouble(): string | undefined {
    const { links, tap } = this;
    const now = links.link(tap);
    this.meant ??= now;
    if (now === undefined || now.index !== this.meant!.index) return this.strange(now);
    // Somebody has moved it to another switch: that is theirs to say.
    if (now.master !== undefined) this.meant = { ...this.meant!, master: now.master };
    const { master, mtu } = this.meant!;
    if (!now.up) return `is down: no frame reaches the VM by it here. Set it up: ip link set ${tap} up`;
    if (now.mtu !== mtu)
      return `has an MTU of ${now.mtu}, and had ${mtu}: larger frames are lost. Put it back (ip link set ${tap} mtu ${mtu}), or start the guardian anew if it is meant`;
    if (master === undefined) return undefined;
    const bridge = links.link(master);
    if (now.master === undefined)
      return bridge === undefined
        ? "was the port of a bridge that is gone: nothing reaches the VM by it here. Make the bridge again, and put the tap into it"
        : `is no port of ${bridge.name} any more: nothing reaches the VM by it here. Put it back: ip link set ${tap} master ${bridge.name}`;
    return bridge === undefined ? undefined : this.beyond(now, bridge);
  }

  private strange(now: NetworkLink | undefined): string {
    const { links, meant, tap } = this;
    const old = meant && links.link(meant.index);
    const make = `ip tuntap add ${tap} mode tap`;
    if (old !== undefined)
      return `was renamed to ${old.name}: a QEMU that has it open goes on with it, and the next one does not find it. Rename it back: ip link set ${old.name} down; ip link set ${old.name} name ${tap}; ip link set ${tap} up`;
    return now === undefined
      ? `is gone, and with it every frame of the VM's here. Make it again (${make}), put it into its bridge, and start this guardian anew: a QEMU cannot open it a second time`
      : "was removed and made again: the QEMU here has the old one open, and its frames are lost. Start this guardian anew; of a VM that runs here, move it to the other host first";
  }

  /** The bridge, and the way out of it. */
  private beyond(now: NetworkLink, bridge: NetworkLink): string | undefined {
    if (!bridge.up)
      return `is a port of ${bridge.name}, which is down. Set it up: ip link set ${bridge.name} up`;
    if (bridge.kind !== "bridge") return undefined;
    const { portState } = now;
    if (now.carrier && (portState === "listening" || portState === "learning" || portState === "blocking"))
      return `gets no frames from ${bridge.name} yet: its spanning tree has the port ${portState}. It takes twice the forward delay after QEMU has opened the tap; without loops, turn it off: ip link set ${bridge.name} type bridge stp_state 0`;
    // With nothing but taps in it, its host is the way out, and those of VMs that are off say nothing.
    const others = this.links.ports(bridge.index).filter(({ index }) => index !== now.index);
    const uplinks = others.filter(({ kind }) => kind !== "tun");
    if (uplinks.length === 0 || others.some(({ carrier, up }) => carrier && up)) return undefined;
    const names = uplinks.map(({ name }) => name).join(", ");
    return `is alone in ${bridge.name}: no other port of it (${names}) has a carrier, so the VM would reach nobody outside. Look at the cable, or set the port up`;
  }
}
