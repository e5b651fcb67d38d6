// The taps of a standby stay what they are, and whatever becomes of them keeps no VM from running (I4). In a
// network namespace that ends with its process; that process has the tap open as QEMU would.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";

const run = promisify(execFile);
const skip = process.geteuid?.() === 0 ? false : "making network namespaces needs root";
const at = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);
const MAC = "52:54:00:72:65:01";

const BEGINNING = `
  import { execFileSync } from "node:child_process";
  import { openSync, readSync, writeFileSync } from "node:fs";
  import { StandbyTaps } from ${at("net/standby-taps.ts")};
  import { checked, libc } from ${at("os/libc.ts")};
  import { networkLink } from ${at("os/network-link.ts")};
  import { PacketSocket } from ${at("os/packet-socket.ts")};
  const ip = (...words) => execFileSync("ip", words, { encoding: "utf8" });
  const bridge = (...words) => execFileSync("bridge", words, { encoding: "utf8" });
  // The kernel's own neighbour discovery would be the first frame at the tap now and then.
  writeFileSync("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
  ip("link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0");
  ip("link", "add", "up0", "type", "veth", "peer", "name", "far0");
  ip("tuntap", "add", "tap0", "mode", "tap", "vnet_hdr");
  for (const port of ["up0", "tap0"]) ip("link", "set", port, "master", "br0");
  ip("link", "set", "tap0", "mtu", "1400");
  bridge("link", "set", "dev", "tap0", "cost", "55", "priority", "9", "hairpin", "on", "learning", "off", "isolated", "on", "guard", "on");
  for (const one of ["br0", "up0", "far0", "tap0"]) ip("link", "set", one, "up");
  const said = [];
  const taps = new StandbyTaps([{ mac: "${MAC}", tap: "tap0" }], (text) => said.push(text));
  const tap = openSync("/dev/net/tun", 2 | 0o4000);
  const request = new Uint8Array(40);
  request.set(Buffer.from("tap0"));
  new DataView(request.buffer).setUint16(16, 0x0002 | 0x1000 | 0x4000, true);
  checked("TUNSETIFF", libc.ioctl(tap, 0x400454ca, request));
  taps.belongTo(process.pid);
  const until = async (what, look) => {
    for (const end = performance.now() + 5000; performance.now() < end; ) {
      const found = look();
      if (found !== undefined && found !== false) return found;
      await new Promise((again) => setTimeout(again, 2));
    }
    throw new Error("not within 5 s: " + what + "; " + said);
  };
  await until("the port forwards", () => networkLink("tap0").portState === "forwarding" && networkLink("up0").portState === "forwarding");
  const far = new PacketSocket("far0");
  const send = (payload) => far.send(Buffer.concat([Buffer.alloc(10), Buffer.from("ffffffffffff02000000000188b5", "hex"), Buffer.from(payload.padEnd(60))]));
  /** The next frame of ours that the guest's QEMU reads. */
  const read = () => {
    const buffer = Buffer.alloc(70_000);
    for (;;) {
      try {
        const bytes = buffer.subarray(0, readSync(tap, buffer));
        if (bytes.subarray(22, 24).toString("hex") === "88b5") return bytes.subarray(24).toString().trimEnd();
      } catch (error) {
        if (error.code === "EAGAIN") return undefined;
        throw error;
      }
    }
  };
  const settings = () => {
    const [{ fdb, ...link }] = JSON.parse(ip("-j", "-d", "link", "show", "tap0"));
    // Ages of timers, and whether the state of the port's neighbours has been told since.
    for (const name of ["hold_timer", "message_age_timer", "forward_delay_timer", "topology_change_ack", "config_pending", "designated_cost"])
      delete link.linkinfo.info_slave_data[name];
    return JSON.stringify(link);
  };
  const behind = () => JSON.parse(bridge("-j", "fdb", "show", "br", "br0")).filter(({ mac }) => mac === "${MAC}").map(({ ifname }) => ifname).join();
`;

async function inside(script: string): Promise<string[]> {
  const words = ["--net", process.execPath, "--input-type=module", "--eval", `${BEGINNING}\n${script}`];
  const { stdout } = await run("unshare", words, { timeout: 30_000 });
  return stdout.trim().split("\n");
}

test("a standby's tap keeps its place in the bridge with all settings, also where a spanning tree runs", {
  skip,
}, async () => {
  const lines = await inside(`
    ip("link", "set", "br0", "type", "bridge", "stp_state", "1");
    const before = settings();
    taps.park();
    console.log(settings() === before);
    taps.open();
    console.log(settings() === before, networkLink("tap0").portState);
    send("at once");
    console.log(await until("a frame", read));
    taps.park();
    console.log(settings() === before);
    taps.restore();
    console.log(settings() === before, said.length);
  `);
  assert.deepEqual(lines, ["true", "true forwarding", "at once", "true", "true 0"]);
});

test("what has piled up is gone when the primary is silent; what comes then waits, and the bridge leads it there", {
  skip,
}, async () => {
  const lines = await inside(`
    taps.park();
    for (let n = 0; n < 2000; n++) send("old " + n);
    console.log(behind() === "");
    taps.open();
    console.log(behind());
    send("new");
    console.log(await until("a frame", read));
    taps.park();
    console.log(behind() === "");
  `);
  assert.deepEqual(lines, ["true", "tap0", "new", "true"]);
});

test("a card's first frame is given once more only if QEMU has read ahead and dropped it", {
  skip,
}, async () => {
  const lines = await inside(`
    taps.open();
    send("first");
    send("second");
    console.log(await until("a frame", read));
    taps.loaded();
    taps.deliver([]);
    console.log(await until("a frame", read), await until("a frame", read));
    taps.park();
    taps.open();
    send("third");
    console.log(await until("a frame", read));
    taps.loaded();
    taps.deliver([]);
    console.log(read());
  `);
  assert.deepEqual(lines, ["first", "second first", "third", "undefined"]);
});

test("I4: a tap that is down is set up when the primary is silent", { skip }, async () => {
  const lines = await inside(`
    ip("link", "set", "tap0", "down");
    taps.open();
    console.log(networkLink("tap0").up);
    await until("the port forwards", () => networkLink("tap0").portState === "forwarding");
    await until("it is led there", () => behind() === "tap0");
    send("to one that was down");
    console.log(await until("a frame", read));
    taps.loaded();
    taps.deliver([]);
  `);
  assert.deepEqual(lines, ["true", "to one that was down"]);
});

test("I4: a tap that is set down, taken away or renamed in a failover is told of, and keeps nothing from going on", {
  skip,
}, async () => {
  const lines = await inside(`
    taps.open();
    ip("link", "set", "tap0", "down");
    taps.loaded();
    taps.deliver([{ nic: 0, frame: new Uint8Array(74) }]);
    taps.park();
    taps.open();
    ip("link", "set", "tap0", "down");
    ip("link", "set", "tap0", "name", "other0");
    taps.loaded();
    taps.deliver([]);
    taps.park();
    taps.open();
    taps.loaded();
    taps.deliver([]);
    console.log(said.some((text) => text.includes('there is no network device "tap0"')));
    ip("link", "delete", "other0");
    taps.park();
    taps.open();
    taps.deliver([]);
    taps.restore();
    console.log("went on");
  `);
  assert.deepEqual(lines, ["true", "went on"]);
});
