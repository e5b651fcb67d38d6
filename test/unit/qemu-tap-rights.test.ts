// Whether a user may open a tap is what the kernel says of it, for taps of every kind of owner. In a network
// namespace that ends with its process, as the user nobody.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { asNobody, openNode, openPath, openProject } from "./as-nobody.ts";

const run = promisify(execFile);
const at = (path: string) => JSON.stringify(openPath(`src/${path}`));

/** Prints for each tap whether preflight would let this user have it, and whether the kernel does. */
const SCRIPT = `
  import { closeSync, openSync } from "node:fs";
  import { lookAtHost } from ${at("hypervisor/qemu/host-facts.ts")};
  import { judge } from ${at("hypervisor/qemu/preflight.ts")};
  import { libc } from ${at("os/libc.ts")};
  const taps = ["free", "mine", "ours", "other", "strange"];
  const host = await lookAtHost({ binary: "none", taps, files: [], runDirectory: "/tmp" });
  for (const tap of taps) {
    const spec = { machine: "pc", cpu: "qemu64", memoryMiB: 64, nics: [{ mac: "52:54:00:00:00:01", tap }], disks: [], boot: { kind: "firmware" }, extraArgs: [] };
    const question = { accelerator: { accelerator: "kvm", reason: "" }, wanted: "kvm", runDirectory: "/tmp", runsHere: false };
    const allowed = !judge(spec, question, host).some(({ code }) => code === "no-net-admin");
    const fd = openSync("/dev/net/tun", 2);
    const request = new Uint8Array(40);
    request.set(Buffer.from(tap));
    new DataView(request.buffer).setUint16(16, 0x0002 | 0x1000, true);
    const opened = libc.ioctl(fd, 0x400454ca, request) === 0;
    closeSync(fd);
    console.log(tap, allowed, opened);
  }
`;

test("preflight lets a user have exactly the taps that the kernel lets them open", {
  skip: process.geteuid?.() === 0 ? false : "needs root, to become nobody",
}, async () => {
  const make = [
    `${openProject} && mknod /mnt/tun c 10 200 && chmod 0666 /mnt/tun && mount --bind /mnt/tun /dev/net/tun`,
    "ip tuntap add free mode tap",
    "ip tuntap add mine mode tap user nobody",
    "ip tuntap add ours mode tap group 7",
    "ip tuntap add other mode tap user 33",
    "ip tuntap add strange mode tap user nobody group 33",
  ].join(" && ");
  const words = [...asNobody, "--groups", "7", openNode(), "--input-type=module", "--eval", SCRIPT];
  const { stdout } = await run("unshare", [
    "--net",
    "--mount",
    "sh",
    "-c",
    `${make} && exec "$@"`,
    "sh",
    ...words,
  ]);
  assert.deepEqual(stdout.trim().split("\n"), [
    "free true true",
    "mine true true",
    "ours true true",
    "other false false",
    "strange false false",
  ]);
});
