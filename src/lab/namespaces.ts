/**
 * The lab's network: two hosts, a client, a witness and the switch between them, each a network namespace.
 *
 * ```
 *        a                        switch                           b
 *  tap0 ─ br0 ─ up0 ══ a-lan0 ─── lan0 ─── b-lan0 ══ up0 ─ br0 ─ tap0
 *                                  └── client-lan0 ══ lan0 of client: 10.77.0.1/24, fd77::1/64
 *  10.78.0.1/30 repl ══ a-repl ──── repl ── b-repl ══ repl 10.78.0.2/30
 *  10.79.0.1/29 wit ═══ a-wit ───── wit ─── b-wit ═══ wit 10.79.0.2/29
 *                                    └── witness-wit ══ wit of witness: 10.79.0.3/29
 *
 *  With a second LAN the same again: tap1, br1, up1, lan1; the client is 10.77.1.1/24, fd77:1::1/64.
 *  With a second link between the hosts the same again: repl1; the hosts are 10.78.1.1/30 and 10.78.1.2/30.
 * ```
 *
 * `══` is a cable (a veth pair). Every cable has an end in the switch, so a whole host is cut off by one `ip`
 * process, and the other host sees silence, as it would behind a real switch, rather than a dead port.
 */
import { execFile, spawn } from "node:child_process";
import { readdir } from "node:fs/promises";
import { promisify } from "node:util";

const run = promisify(execFile);

export type HostName = "a" | "b";
export type NamespaceRole = HostName | "client" | "witness" | "switch";
/**
 * What the two hosts' guardians speak over: with each other (all links, or one of them), or with the witness.
 */
export type LabLink = "link" | "link1" | "link2" | "witness";

export interface LabNetworkOptions {
  /** Of the namespaces' names. Left out: one of our own, of which `destroyStale` knows whose it is. */
  readonly prefix?: string;
  readonly lans: 1 | 2;
  /** Between the two hosts; left out: one. */
  readonly links?: 1 | 2;
}

/** The addresses of the lab. On LAN n, hosts have none; guests take what they like of the rest. */
export const labAddresses = {
  client: [
    { ipv4: "10.77.0.1", ipv6: "fd77::1" },
    { ipv4: "10.77.1.1", ipv6: "fd77:1::1" },
  ],
  replication: { a: "10.78.0.1", b: "10.78.0.2" },
  secondReplication: { a: "10.78.1.1", b: "10.78.1.2" },
  witness: { a: "10.79.0.1", b: "10.79.0.2", witness: "10.79.0.3" },
} as const;

export interface LabNetwork {
  /** Names of the namespaces, as in /run/netns. */
  readonly namespaces: Readonly<Record<NamespaceRole, string>>;
  /**
   * What to put before a command's words to run it in there: spawn(argv[0], [...argv.slice(1), "qemu", ...]).
   */
  exec(role: NamespaceRole): string[];
  /** Every cable of the host: its LANs, replication and the witness. As when it loses power. */
  cutHost(host: HostName): Promise<void>;
  restoreHost(host: HostName): Promise<void>;
  /**
   * The same, of a host that lost power: its bridges have learnt nothing, and have all their ports. Nothing
   * may run on it.
   */
  restartHost(host: HostName): Promise<void>;
  /** Of one host, or of both (or of the witness itself, which comes to the same). */
  cut(link: LabLink, host?: HostName): Promise<void>;
  restore(link: LabLink, host?: HostName): Promise<void>;
  /** The host's LAN cables, all of them; replication stays. */
  cutLan(host: HostName): Promise<void>;
  restoreLan(host: HostName): Promise<void>;
  /** What `ip -j link` says of the interfaces in there. */
  links(role: NamespaceRole): Promise<Link[]>;
  /**
   * Removes the namespaces with all that is in them. Processes still in there lose their network, not their
   * life.
   */
  destroy(): Promise<void>;
}

export interface Link {
  readonly ifname: string;
  readonly operstate: string;
  readonly flags: readonly string[];
  /** The bridge whose port it is. */
  readonly master?: string;
}

/** A link between the hosts: the bridge in the switch, after which both hosts' ends are called, too. */
interface Replication {
  readonly link: LabLink;
  readonly bridge: string;
  readonly addresses: Readonly<Record<HostName, string>>;
}

const replications: readonly Replication[] = [
  { link: "link1", bridge: "repl", addresses: labAddresses.replication },
  { link: "link2", bridge: "repl1", addresses: labAddresses.secondReplication },
];

const roles: readonly NamespaceRole[] = ["a", "b", "client", "witness", "switch"];
let created = 0;

/**
 * Makes the namespaces, bridges, taps and cables; all of it is up when this returns. Needs root, or
 * rootless.ts. Leaves nothing behind when it fails.
 * @throws with the words of `ip` when something cannot be made.
 */
export async function createNetwork(options: LabNetworkOptions): Promise<LabNetwork> {
  const prefix = options.prefix ?? `remus-${process.pid}-${++created}`;
  const lans = Array.from({ length: options.lans }, (_, lan) => lan);
  const links = replications.slice(0, options.links ?? 1);
  const network = new Namespaces(prefix, lans, links);
  try {
    await network.create();
  } catch (error) {
    await network.destroy();
    throw error;
  }
  return network;
}

/** Removes the networks of lab processes that are gone. Returns the names of the removed namespaces. */
export async function destroyStale(): Promise<string[]> {
  const names = await readdir("/run/netns").catch(() => []);
  const stale = names.filter((name) => {
    const pid = /^remus-(\d+)-\d+-(a|b|client|witness|switch)$/.exec(name)?.[1];
    return pid !== undefined && !isAlive(Number(pid));
  });
  await removeNamespaces(stale);
  return stale;
}

class Namespaces implements LabNetwork {
  readonly namespaces: Readonly<Record<NamespaceRole, string>>;
  readonly #lans: readonly number[];
  readonly #links: readonly Replication[];

  constructor(prefix: string, lans: readonly number[], links: readonly Replication[]) {
    this.namespaces = {
      a: `${prefix}-a`,
      b: `${prefix}-b`,
      client: `${prefix}-client`,
      witness: `${prefix}-witness`,
      switch: `${prefix}-switch`,
    };
    this.#lans = lans;
    this.#links = links;
  }

  exec(role: NamespaceRole): string[] {
    return ["nsenter", `--net=/run/netns/${this.namespaces[role]}`, "--"];
  }

  async create(): Promise<void> {
    await ipBatch(
      [],
      roles.map((role) => `netns add ${this.namespaces[role]}`),
    );
    // Defaults for interfaces yet to come: hosts and switch speak no IPv6 of their own, the client's
    // addresses are usable at once.
    const noIpv6 = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
    const noDad = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad";
    await Promise.all(roles.map((role) => this.#shell(role, role === "client" ? noDad : noIpv6)));
    await this.#batch("switch", this.#switchLines());
    await Promise.all([
      this.#batch("a", this.#hostLines("a")),
      this.#batch("b", this.#hostLines("b")),
      this.#batch("client", this.#clientLines()),
      this.#batch("witness", ["link set lo up", ...witnessLines("witness")]),
    ]);
  }

  /** Made first: it lays all cables, with the far ends in the other namespaces. */
  #switchLines(): string[] {
    const { a, b, client, witness } = this.namespaces;
    return [
      "link set lo up",
      ...this.#lans.flatMap((lan) => [
        ...bridge(`lan${lan}`),
        ...cable("a", `lan${lan}`, `up${lan}`, a),
        ...cable("b", `lan${lan}`, `up${lan}`, b),
        ...cable("client", `lan${lan}`, `lan${lan}`, client),
      ]),
      ...this.#links.flatMap(({ bridge: name }) => [
        ...bridge(name),
        ...cable("a", name, name, a),
        ...cable("b", name, name, b),
      ]),
      ...bridge("wit"),
      ...cable("a", "wit", "wit", a),
      ...cable("b", "wit", "wit", b),
      ...cable("witness", "wit", "wit", witness),
    ];
  }

  #hostLines(host: HostName): string[] {
    return [
      "link set lo up",
      ...this.#lans.flatMap((lan) => [
        ...bridge(`br${lan}`),
        `link set up${lan} master br${lan} up`,
        `tuntap add dev tap${lan} mode tap vnet_hdr`,
        `link set tap${lan} master br${lan} up`,
      ]),
      ...this.#links.flatMap(({ bridge: name, addresses }) => [
        `addr add ${addresses[host]}/30 dev ${name}`,
        `link set ${name} up`,
      ]),
      ...witnessLines(host),
    ];
  }

  #clientLines(): string[] {
    return [
      "link set lo up",
      ...this.#lans.flatMap((lan) => [
        `addr add ${labAddresses.client[lan]!.ipv4}/24 dev lan${lan}`,
        `addr add ${labAddresses.client[lan]!.ipv6}/64 dev lan${lan} nodad`,
        `link set lan${lan} up`,
      ]),
    ];
  }

  cutHost(host: HostName): Promise<void> {
    return this.#cut(this.#ports(host));
  }

  restoreHost(host: HostName): Promise<void> {
    return this.#restore(this.#ports(host));
  }

  async restartHost(host: HostName): Promise<void> {
    // A bridge forgets what it learnt about a port that leaves it.
    const ports = this.#lans.flatMap((lan) => [`up${lan}`, `tap${lan}`].map((port) => ({ port, lan })));
    await this.#batch(host, [
      ...ports.map(({ port }) => `link set ${port} nomaster`),
      ...ports.map(({ port, lan }) => `link set ${port} master br${lan}`),
    ]);
    await this.restoreHost(host);
  }

  cut(link: LabLink, host?: HostName): Promise<void> {
    return this.#cut(this.#linkPorts(link, host));
  }

  restore(link: LabLink, host?: HostName): Promise<void> {
    return this.#restore(this.#linkPorts(link, host));
  }

  cutLan(host: HostName): Promise<void> {
    return this.#cut(this.#lanPorts(host));
  }

  restoreLan(host: HostName): Promise<void> {
    return this.#restore(this.#lanPorts(host));
  }

  #lanPorts(host: HostName): string[] {
    return this.#lans.map((lan) => `${host}-lan${lan}`);
  }

  #linkPorts(link: LabLink, host?: HostName): string[] {
    const cut = this.#links.filter((one) => link === "link" || link === one.link);
    if (link !== "witness" && cut.length === 0) throw new Error(`this lab has no ${link}`);
    const bridges = link === "witness" ? ["wit"] : cut.map(({ bridge: name }) => name);
    const hosts = host === undefined ? ["a", "b"] : [host];
    return hosts.flatMap((one) => bridges.map((name) => `${one}-${name}`));
  }

  #ports(host: HostName): string[] {
    return [...this.#lanPorts(host), ...this.#linkPorts("link", host), ...this.#linkPorts("witness", host)];
  }

  /**
   * A cut cable's port is taken out of its bridge, and nothing goes through it any more in either direction.
   * The link itself stays up: the kernel may take a second before it uses a link again that was down.
   */
  #cut(ports: readonly string[]): Promise<void> {
    return this.#batch(
      "switch",
      ports.map((port) => `link set ${port} nomaster`),
    );
  }

  #restore(ports: readonly string[]): Promise<void> {
    return this.#batch(
      "switch",
      ports.map((port) => `link set ${port} master ${port.slice(port.indexOf("-") + 1)}`),
    );
  }

  async links(role: NamespaceRole): Promise<Link[]> {
    const { stdout } = await run("ip", ["-n", this.namespaces[role], "-j", "link"]);
    return JSON.parse(stdout) as Link[];
  }

  async destroy(): Promise<void> {
    const present = new Set(await readdir("/run/netns").catch(() => []));
    await removeNamespaces(Object.values(this.namespaces).filter((name) => present.has(name)));
  }

  #batch(role: NamespaceRole, lines: readonly string[]): Promise<void> {
    return ipBatch(["-n", this.namespaces[role]], lines);
  }

  async #shell(role: NamespaceRole, script: string): Promise<void> {
    const [program, ...words] = this.exec(role);
    await run(program!, [...words, "sh", "-c", script]);
  }
}

function witnessLines(role: keyof typeof labAddresses.witness): string[] {
  return [`addr add ${labAddresses.witness[role]}/29 dev wit`, "link set wit up"];
}

function bridge(name: string): string[] {
  return [
    `link add name ${name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0`,
    `link set ${name} up`,
  ];
}

/**
 * A veth pair from the bridge in the switch, where its end is the port OWNER-BRIDGE, to another namespace.
 */
function cable(owner: NamespaceRole, bridgeName: string, farEnd: string, farNamespace: string): string[] {
  const port = `${owner}-${bridgeName}`;
  return [
    `link add name ${port} type veth peer name ${farEnd} netns ${farNamespace}`,
    `link set ${port} master ${bridgeName} up`,
  ];
}

async function removeNamespaces(names: readonly string[]): Promise<void> {
  if (names.length === 0) return;
  // -force: go on after one that is gone already, and report at the end.
  await ipBatch(
    ["-force"],
    names.map((name) => `netns delete ${name}`),
  );
}

/** One `ip` process for many commands. */
function ipBatch(options: readonly string[], lines: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const ip = spawn("ip", [...options, "-batch", "-"], { stdio: ["pipe", "ignore", "pipe"] });
    let complaints = "";
    ip.stderr.on("data", (text) => {
      complaints += text;
    });
    ip.on("error", (error) => reject(new Error("cannot run ip: install iproute2", { cause: error })));
    ip.stdin.on("error", () => {}); // it ended early; `close` tells why
    ip.on("close", (status) => {
      if (status === 0) return resolve();
      reject(new Error(`ip ${options.join(" ")}: ${complaints.trim() || `status ${status}`}`));
    });
    ip.stdin.end(lines.map((line) => `${line}\n`).join(""));
  });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
