/**
 * A VM with what guests of today have, all at once: protected, failed over, and everything that it wrote is
 * there (I1, I4, I7).
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { moduleCommand, uefiCommand } from "../../src/lab/guest-image.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { assertRamEqual, assertUnharmed, eventually, GRACE_MS, makeLab } from "./lab-session.ts";

const firmware = { code: "/usr/share/OVMF/OVMF_CODE_4M.fd", variables: "/usr/share/OVMF/OVMF_VARS_4M.fd" };

const MIB = 1 << 20;
const MEMORY_MIB = 384;

/** What a host has of the VM that is its own: files with the same contents, and ends of its own. */
function placesOf(folder: string, host: "a" | "b") {
  const directory = join(folder, host);
  mkdirSync(directory);
  const place = (name: string) => join(directory, name);
  copyFileSync(firmware.variables, place("vars, of the VM.fd"));
  writeFileSync(place("a disc.iso"), Buffer.alloc(3 * MIB + 2048, "disc"));
  return {
    uefi: { code: firmware.code, variables: place("vars, of the VM.fd") },
    cdroms: [{ image: place("a disc.iso") }, {}],
    serial: { socket: place("serial") },
    agent: place("agent"),
    vnc: place("vnc"),
  };
}

async function connected(t: TestContext, path: string): Promise<Socket> {
  const socket = createConnection(path);
  t.after(() => socket.destroy());
  await once(socket, "connect");
  return socket;
}

/** Everything that comes until `text` is in it. */
async function hears(socket: Socket, text: string): Promise<void> {
  let all = "";
  socket.setEncoding("latin1").on("data", (more: string) => {
    all += more;
  });
  await eventually(`${text} comes`, () => all.includes(text));
}

async function done(lab: Lab, name: string, command: string[]): Promise<void> {
  assert.equal(await lab.redis(...command), "1");
  await eventually(
    `the guest says that ${name} is done`,
    async () => (await lab.redis("GET", "done")) === name,
    GRACE_MS,
  );
}

async function balloonedTo(monitor: Qmp, mib: number): Promise<void> {
  await monitor.execute("balloon", { value: mib * MIB });
  const left = async () => (await monitor.execute<{ actual: number }>("query-balloon")).actual === mib * MIB;
  await eventually(`the balloon leaves ${mib} MiB`, left, GRACE_MS);
}

test("UEFI, topology, discs, ports, screen, balloon, watchdog, tablet: what the guest wrote into its flash memory survives, too (I1, I4, I7)", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "remus-devices-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const places = { a: placesOf(folder, "a"), b: placesOf(folder, "b") };
  const lab = await makeLab(t, {
    memoryMiB: MEMORY_MIB,
    virtio: "standard",
    // To compare all of its RAM keeps a small machine from its heartbeats.
    detectionMs: 1000,
  });
  const same = {
    topology: { sockets: 1, cores: 1, threads: 1 },
    extraArgs: [
      ...["-qmp", `unix:${join(folder, "admin")},server=on,wait=off`],
      ...["-device", "virtio-rng-pci", "-device", "virtio-balloon-pci,id=balloon0"],
      ...["-device", "i6300esb", "-action", "watchdog=reset"],
      ...["-device", "qemu-xhci", "-device", "usb-tablet", "-device", "usb-kbd"],
      ...["-net", "none", "-machine", "vmport=off"],
    ],
  };
  await lab.startBackup({ ...same, ...places.b });
  await lab.startPrimary({ ...same, ...places.a });
  const monitor = await Qmp.connect(join(folder, "admin"));
  t.after(() => monitor.close());
  // Under emulation UEFI alone may take half a minute before the kernel begins.
  await lab.guestReady().catch(() => lab.guestReady());
  const log = readFileSync(join(lab.directory, "a", "guardian.log"), "utf8");
  for (const field of ["vm.serial", "vm.agent", "vm.vnc", "-qmp"])
    assert.ok(log.includes(`${field} `) && log.includes("holds back only network output"), field);
  const client = lab.client();
  await client.answers(20, GRACE_MS);
  await lab.protect();
  await client.answers(20, GRACE_MS);

  const flash = (host: "a" | "b") => readFileSync(places[host].uefi.variables);
  await done(lab, "BeforeFailover", uefiCommand("BeforeFailover"));
  assert.ok(flash("a").includes("BeforeFailover"), "the primary's variable store has it");
  await done(lab, "virtio_balloon", moduleCommand("virtio_balloon"));
  await balloonedTo(monitor, MEMORY_MIB - 128);
  await assertRamEqual(lab);
  await balloonedTo(monitor, MEMORY_MIB);
  await assertRamEqual(lab);
  await client.answers(20, GRACE_MS);

  await lab.kill("power");
  await lab.failedOver();
  await client.answers(50, GRACE_MS);
  // QEMU writes all of its flash memory to the file when the VM runs: it must hold what the guest wrote under
  // protection.
  assert.ok(flash("b").includes("BeforeFailover"), "the backup's variable store has it");
  await hears(await connected(t, places.b.vnc), "RFB 003.008");
  await connected(t, places.b.agent);
  const heard = hears(await connected(t, places.b.serial.socket), "REMUS-GUEST-DONE AfterFailover");
  await done(lab, "AfterFailover", uefiCommand("AfterFailover"));
  await heard;
  assert.ok(flash("b").includes("BeforeFailover") && flash("b").includes("AfterFailover"));
  await assertUnharmed(client);
});
