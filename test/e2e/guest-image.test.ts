// The guests that every end-to-end test protects: each kind boots unprotected, serves Redis on each of its addresses,
// and takes up and lays down its load when told.
import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { type FileHandle, mkdtemp, open, rm } from "node:fs/promises";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import type { ClientSummary } from "../../src/lab/client.ts";
import {
  buildGuestImage,
  type GuestLoad,
  guestAppend,
  guestCpu,
  guestProblemPrefix,
  guestReadyLine,
  loadCommand,
  redisPort,
} from "../../src/lab/guest-image.ts";
import { createNetwork, type LabNetwork } from "../../src/lab/namespaces.ts";

const run = promisify(execFile);
const clientProgram = `${import.meta.dirname}/../../src/lab/client.ts`;

interface GuestKind {
  readonly machine: "pc" | "q35";
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly nics: 1 | 2;
}

const kinds: readonly GuestKind[] = [
  { machine: "pc", vcpus: 1, memoryMiB: 256, nics: 1 },
  { machine: "q35", vcpus: 2, memoryMiB: 2048, nics: 2 },
];

/** 8 KiB above the MiB, as all VMs under software emulation have here. */
const memoryKiB = (kind: GuestKind) => kind.memoryMiB * 1024 + 8;

function nicsOf(kind: GuestKind) {
  return Array.from({ length: kind.nics }, (_, lan) => ({
    mac: `52:54:00:77:0${lan}:10`,
    ipv4: `10.77.${lan}.10/24`,
    ipv6: lan === 0 ? "fd77::10/64" : "fd77:1::10/64",
  }));
}

/** Boots a guest on host a of the network; its RAM is the file `ram`. Returns once Redis answers in it. */
async function boot(t: TestContext, network: LabNetwork, kind: GuestKind, ram: string): Promise<void> {
  const image = await buildGuestImage();
  const nics = nicsOf(kind);
  const [program, ...words] = network.exec("a");
  // biome-ignore format: one option a line
  const qemu: ChildProcess = spawn(program!, [
    ...words, "qemu-system-x86_64", "-nodefaults", "-nographic", "-no-reboot", "-accel", "tcg", "-serial", "stdio",
    "-machine", `${kind.machine},memory-backend=pc.ram`, "-cpu", guestCpu, "-smp", `${kind.vcpus}`,
    "-object", `memory-backend-file,id=pc.ram,share=on,mem-path=${ram},size=${memoryKiB(kind)}k`,
    "-m", `${memoryKiB(kind)}k`,
    "-kernel", image.kernel, "-initrd", image.initrd, "-append", guestAppend({ nics, load: "idle" }),
    ...nics.flatMap(({ mac }, lan) => [
      "-netdev", `tap,id=lan${lan},ifname=tap${lan},script=no,downscript=no`,
      "-device", `virtio-net-pci,netdev=lan${lan},mac=${mac}${kind.machine === "q35" ? ",disable-legacy=on" : ""}`,
    ]),
  ], { stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(qemu, "exit");
  t.after(async () => {
    qemu.kill("SIGKILL");
    await gone;
  });
  const console: string[] = [];
  for await (const line of createInterface({ input: qemu.stdout! })) {
    console.push(line);
    if (line.includes(guestProblemPrefix)) assert.fail(line);
    if (line.includes(guestReadyLine)) return;
  }
  assert.fail(`QEMU ended before the guest was ready:\n${console.join("\n")}`);
}

async function inClient(network: LabNetwork, ...command: string[]): Promise<string> {
  const [program, ...words] = network.exec("client");
  const { stdout } = await run(program!, [...words, ...command]);
  return stdout.trim();
}

async function client(network: LabNetwork, host: string): Promise<ClientSummary> {
  const words = ["--host", host, "--port", `${redisPort}`, "--seconds", "0.5", "--key", `counter ${host}`];
  const lines = (await inClient(network, process.execPath, clientProgram, ...words)).split("\n");
  return JSON.parse(lines.at(-1)!);
}

/** Counts pages whose content changed from one look at the RAM to the next, again and again, until it is enough. */
async function untilChangedPages(ram: FileHandle, bytes: number, enough: (pages: number) => boolean) {
  let before = Buffer.alloc(bytes);
  let after = Buffer.alloc(bytes);
  await ram.read(before, 0, bytes, 0);
  for (;;) {
    await ram.read(after, 0, bytes, 0);
    let pages = 0;
    for (let at = 0; at < bytes; at += 4096) {
      if (before.compare(after, at, at + 4096, at, at + 4096) !== 0) pages += 1;
    }
    if (enough(pages)) return;
    [before, after] = [after, before];
  }
}

for (const kind of kinds) {
  const name = `${kind.machine}, ${kind.vcpus} vCPUs, ${kind.memoryMiB} MiB, ${kind.nics} NICs`;
  test(`${name}: boots and serves Redis on every address`, { timeout: 90_000 }, async (t) => {
    const folder = await mkdtemp("/dev/shm/remus-guest-");
    t.after(() => rm(folder, { recursive: true, force: true }));
    const network = await createNetwork({ lans: kind.nics });
    t.after(() => network.destroy());
    await boot(t, network, kind, `${folder}/ram`);

    for (const { ipv4, ipv6 } of nicsOf(kind)) {
      for (const address of [ipv4, ipv6]) {
        const summary = await client(network, address.split("/")[0]!);
        assert.partialDeepStrictEqual(summary, {
          connections: 1,
          resets: 0,
          lost: 0,
          wentBack: 0,
          repeated: 0,
        });
        assert.ok(summary.acked > 0, `no answer from ${address}`);
      }
    }

    const setLoad = (load: GuestLoad) =>
      inClient(network, "redis-cli", "-h", "10.77.0.10", ...loadCommand(load));
    const ram = await open(`${folder}/ram`);
    t.after(() => ram.close());
    const looked = Math.min(kind.memoryMiB, 256) << 20;
    const quiet = 150;
    await untilChangedPages(ram, looked, (pages) => pages < quiet);
    assert.equal(await setLoad("busy"), "1", "somebody in the guest listens");
    await untilChangedPages(ram, looked, (pages) => pages > 2 * quiet);
    assert.equal(await setLoad("idle"), "1");
    await untilChangedPages(ram, looked, (pages) => pages < quiet);
  });
}
