// The guests that every end-to-end test protects: each kind boots unprotected, serves Redis on each of its
// addresses, takes up and lays down its loads when told, and keeps its data on its disk.
import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { type FileHandle, mkdtemp, open, rm } from "node:fs/promises";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { countIncrements } from "../../src/lab/append-only-file.ts";
import type { ClientSummary } from "../../src/lab/client-report.ts";
import { LabDisks } from "../../src/lab/disks.ts";
import { checkFileSystem } from "../../src/lab/file-system.ts";
import {
  buildGuestImage,
  diskLoadCommand,
  type GuestDisks,
  type GuestLoad,
  guestAppend,
  guestCpu,
  guestProblemPrefix,
  guestReadyLine,
  loadCommand,
  redisPort,
} from "../../src/lab/guest-image.ts";
import { createNetwork, type LabNetwork } from "../../src/lab/namespaces.ts";
import { attach, exportOf, listen, MemoryDisk } from "../unit/nbd-samples.ts";
import { eventually, GRACE_MS } from "./lab-session.ts";

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

/** QEMU's words for the guest's disks, and what the guest is to do with them. */
interface Attached {
  readonly words: readonly string[];
  readonly disks: GuestDisks;
}

/**
 * Boots a guest on host a of the network; its RAM is the file `ram`. Returns once Redis answers in it, with a
 * function that ends the guest as a power failure would.
 */
async function boot(
  t: TestContext,
  network: LabNetwork,
  kind: GuestKind,
  ram: string,
  attached: Attached = { words: [], disks: { load: [] } },
): Promise<() => Promise<void>> {
  const image = await buildGuestImage();
  const nics = nicsOf(kind);
  const [program, ...words] = network.exec("a");
  // biome-ignore format: one option a line
  const qemu: ChildProcess = spawn(program!, [
    ...words, "qemu-system-x86_64", "-nodefaults", "-nographic", "-no-reboot", "-accel", "tcg", "-serial", "stdio",
    "-machine", `${kind.machine},memory-backend=pc.ram`, "-cpu", guestCpu, "-smp", `${kind.vcpus}`,
    "-object", `memory-backend-file,id=pc.ram,share=on,mem-path=${ram},size=${memoryKiB(kind)}k`,
    "-m", `${memoryKiB(kind)}k`,
    "-kernel", image.kernel, "-initrd", image.initrd, "-append", guestAppend({ nics, load: "idle", disks: attached.disks }),
    ...nics.flatMap(({ mac }, lan) => [
      "-netdev", `tap,id=lan${lan},ifname=tap${lan},script=no,downscript=no`,
      "-device", `virtio-net-pci,netdev=lan${lan},mac=${mac}${kind.machine === "q35" ? ",disable-legacy=on" : ""}`,
    ]),
    ...attached.words,
  ], { stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(qemu, "exit");
  const end = async () => {
    qemu.kill("SIGKILL");
    await gone;
  };
  t.after(end);
  const console: string[] = [];
  for await (const line of createInterface({ input: qemu.stdout! })) {
    console.push(line);
    if (line.includes(guestProblemPrefix)) assert.fail(line);
    if (line.includes(guestReadyLine)) return end;
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

/**
 * Counts pages whose content changed from one look at the RAM to the next, again and again, until it is
 * enough.
 */
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

/** What a disk was asked to do, its reads left out. */
class Asked {
  private readonly disk: MemoryDisk;

  constructor(disk: MemoryDisk) {
    this.disk = disk;
  }

  get changes(): number {
    return this.disk.requests.filter(({ kind }) => kind !== "read" && kind !== "block-status").length;
  }

  count(kind: "write" | "zero" | "trim" | "flush"): number {
    return this.disk.requests.filter((request) => request.kind === kind).length;
  }

  /** In bytes. */
  get writeSizes(): number[] {
    return this.disk.requests.filter(({ kind }) => kind === "write").map(({ length }) => length);
  }

  /** In how many of these many equal parts of the disk something was written. */
  reached(parts: number): number {
    const partBytes = this.disk.export.bytes / parts;
    const writes = this.disk.requests.filter(({ kind }) => kind === "write");
    return new Set(writes.map(({ offset }) => Math.floor(offset / partBytes))).size;
  }
}

test("disks: Redis' data is on ext4 and outlives the power; another is written all over when told", {
  timeout: 90_000,
}, async (t) => {
  const folder = await mkdtemp("/dev/shm/remus-guest-");
  t.after(() => rm(folder, { recursive: true, force: true }));
  const network = await createNetwork({ lans: 1 });
  t.after(() => network.destroy());
  const images = await LabDisks.create([{ mebibytes: 64, use: "data" }]);
  t.after(() => images.destroy());
  const memory = new MemoryDisk(exportOf(32 << 20));
  const asked = new Asked(memory);
  const socket = await listen(t, (connection) => attach(memory, connection));
  // biome-ignore format: one option a line
  const words = [
    "-drive", `file=${images.image("a", 0)},format=raw,if=none,id=data,discard=unmap`,
    "-device", "virtio-blk-pci,drive=data",
    "-drive", `file=nbd+unix:///disk0?socket=${socket},format=raw,if=none,id=load,discard=unmap`,
    "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=load",
  ];
  const disks: GuestDisks = { data: images.inGuest.data!, load: [] };
  const endOfPower = await boot(t, network, kinds[0]!, `${folder}/ram`, { words, disks });

  const { highest, acked } = await client(network, "10.77.0.10");
  assert.ok(highest > 0 && highest === acked);
  const load = (names: readonly string[]) =>
    inClient(network, "redis-cli", "-h", "10.77.0.10", ...diskLoadCommand(names));
  assert.equal(asked.changes, 0, "nobody has told it to write yet");
  assert.equal(await load(["sda"]), "1", "somebody in the guest listens");
  await eventually(
    "writes, zeroes, discards and flushes, small and large, all over the disk",
    () => {
      const sizes = asked.writeSizes;
      const kinds = (["zero", "trim", "flush"] as const).every((kind) => asked.count(kind) > 0);
      const small = sizes.some((bytes) => bytes % 4096 !== 0);
      return kinds && small && sizes.length > 100 && Math.max(...sizes) > 500_000 && asked.reached(16) === 16;
    },
    GRACE_MS,
  );
  assert.equal(await load([]), "1");
  // The last step and its flush are still to come; then there is nothing left that could write.
  let seen = -1;
  await eventually("the load ends", async () => {
    const before = seen;
    seen = asked.changes;
    await client(network, "10.77.0.10");
    return before === asked.changes;
  });

  const { highest: last } = await client(network, "10.77.0.10");
  await endOfPower();
  const image = images.image("a", 0);
  const { stdout: header } = await run("dumpe2fs", ["-h", image]);
  assert.match(header, /features:.*needs_recovery/, "it was in use");
  let increments = 0;
  const { clean, complaint } = await checkFileSystem(image, {
    read: async (files) => {
      increments = await countIncrements(
        (name) => files.read(`/appendonlydir/${name}`),
        "counter 10.77.0.10",
      );
    },
  });
  assert.ok(clean, complaint);
  assert.equal(increments, last, "each answer's increment, and no other, for nothing was on its way");
});
