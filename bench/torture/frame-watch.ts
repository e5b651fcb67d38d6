/**
 * I3, seen from outside: which host the guest's frames come from. tcpdump listens at the switch's ports of
 * both hosts; every frame there that bears the guest's address has left a host.
 */
import type { ChildProcess } from "node:child_process";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Children } from "../../src/lab/children.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { HostName } from "../../src/lab/namespaces.ts";

const START_TIMEOUT_MS = 5_000;
/** Ethernet header and a little of what follows. */
const KEPT_BYTES = 54;
/** Of pcap's file and record headers, with times in nanoseconds (pcap-savefile(5)). */
const FILE_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;

/** A frame of the guest's that has left a host. */
export interface GuestFrame {
  readonly host: HostName;
  /** CLOCK_REALTIME. */
  readonly atNs: bigint;
}

export interface FramesSeen {
  readonly frames: Readonly<Record<HostName, number>>;
  /** The hosts that the frames came from, one after the other. */
  readonly owners: readonly HostName[];
  /** Frames of a host after the first one of the other: two owners. */
  readonly late: number;
  /** How long after the other's first frame the last of these came. */
  readonly lateMs: number;
}

export class FrameWatch {
  private readonly ports: readonly Port[];

  private constructor(ports: readonly Port[]) {
    this.ports = ports;
  }

  /** Listens from when this resolves. */
  static async start(lab: Lab, children: Children): Promise<FrameWatch> {
    const mac = lab.vm.nics[0]!.mac;
    return new FrameWatch(
      await Promise.all((["a", "b"] as const).map((host) => Port.listen(lab, children, host, mac))),
    );
  }

  /** Ends it. Gives what it saw, in order. */
  async frames(): Promise<GuestFrame[]> {
    const all = (await Promise.all(this.ports.map((port) => port.end()))).flat();
    return all.sort((one, other) => (one.atNs < other.atNs ? -1 : 1));
  }

  /** Ends it. `first` is the host that ran the VM when it began. */
  async end(first: HostName): Promise<FramesSeen> {
    return judge(await this.frames(), first);
  }
}

/** Frames in the order of their times, and the host that ran the VM at first. */
export function judge(all: readonly GuestFrame[], first: HostName): FramesSeen {
  const frames = { a: 0, b: 0 };
  const owners: HostName[] = [];
  let takenOverNs: bigint | undefined;
  let late = 0;
  let lateMs = 0;
  for (const { host, atNs } of all) {
    frames[host]++;
    if (owners.at(-1) !== host) owners.push(host);
    if (host !== first) takenOverNs ??= atNs;
    else if (takenOverNs !== undefined) {
      late++;
      lateMs = Number(atNs - takenOverNs) / 1e6;
    }
  }
  return { frames, owners, late, lateMs };
}

/** One tcpdump. */
class Port {
  private readonly host: HostName;
  private readonly child: ChildProcess;
  private readonly file: string;
  private readonly gone: Promise<void>;

  private constructor(host: HostName, child: ChildProcess, file: string) {
    this.host = host;
    this.child = child;
    this.file = file;
    this.gone = new Promise((resolve) => child.once("exit", () => resolve()));
  }

  static async listen(lab: Lab, children: Children, host: HostName, mac: string): Promise<Port> {
    const file = join(lab.directory, `frames-${host}.pcap`);
    const options = ["-Q", "in", "-s", String(KEPT_BYTES), "--immediate-mode", "--nano", "-Z", "root"];
    const words = ["tcpdump", "-i", `${host}-lan0`, ...options, "-w", file, "ether", "src", mac];
    const child = children.spawn([...lab.network.exec("switch"), ...words], ["ignore", "ignore", "pipe"]);
    const port = new Port(host, child, file);
    await port.listening();
    return port;
  }

  async end(): Promise<GuestFrame[]> {
    this.child.kill("SIGINT");
    await this.gone;
    const bytes = await readFile(this.file);
    await rm(this.file);
    const frames: GuestFrame[] = [];
    for (let at = FILE_HEADER_BYTES; at + RECORD_HEADER_BYTES <= bytes.length; ) {
      const seconds = BigInt(bytes.readUInt32LE(at));
      frames.push({ host: this.host, atNs: seconds * 1_000_000_000n + BigInt(bytes.readUInt32LE(at + 4)) });
      at += RECORD_HEADER_BYTES + bytes.readUInt32LE(at + 8);
    }
    return frames;
  }

  private listening(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let said = "";
    const timer = setTimeout(() => reject(new Error(`tcpdump does not listen: ${said}`)), START_TIMEOUT_MS);
    this.child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (said.includes("listening on")) resolve();
    });
    void this.gone.then(() => reject(new Error(`tcpdump has ended: ${said}`)));
    return promise.finally(() => clearTimeout(timer));
  }
}
