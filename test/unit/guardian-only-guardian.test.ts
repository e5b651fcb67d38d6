/**
 * Two of one on a host: the second guardian of a VM, or of anything that two VMs both call their own, ends at once and has touched nothing (I3). The case that taught it
 * took over the control socket of the one that ran, and claimed a generation in its name.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type GuardianConfig, parseConfig } from "../../src/guardian/config.ts";
import { ControlClient } from "../../src/guardian/control/client.ts";
import { beTheOnlyGuardian, NotTheOnlyGuardian } from "../../src/guardian/only-guardian.ts";

const MAIN = new URL("../../src/guardian/main.ts", import.meta.url).pathname;
const deadline = () => AbortSignal.timeout(20_000);

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-only-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Two files with no more in common than a host: each has places, names and devices of its own. */
function file(root: string, which: number, more: Record<string, unknown> = {}): Record<string, unknown> {
  const own = join(root, `own${which}`);
  const image = join(root, `disk${which}.raw`);
  const vm = {
    name: `only${which}`,
    uuid: randomUUID(),
    vcpus: 1,
    memoryMiB: 64,
    nics: [{ mac: `52:54:00:00:0${which}:01`, tap: `only${which}` }],
    disks: [{ image, format: "raw" }],
    boot: { kind: "firmware" },
  };
  return {
    role: "primary",
    vm: { ...vm, ...(more.vm as object) },
    runDirectory: join(own, "run"),
    imageDirectory: join(own, "images"),
    stateDirectory: join(own, "state"),
    cacheDirectory: join(own, "cache"),
    replication: { peer: "127.0.0.1:1", listen: `127.0.0.1:${7100 + which}` },
    host: `host${which}`,
    witness: { kind: "none" },
    ...Object.fromEntries(Object.entries(more).filter(([field]) => field !== "vm")),
  };
}

const read = (fields: Record<string, unknown>): GuardianConfig => parseConfig(JSON.stringify(fields), "f");

test("I3: what two guardians would destroy for each other is one's alone, by whichever name it is called", async (t) => {
  const root = folder(t);
  const locks = [join(root, "locks")];
  await writeFile(join(root, "disk1.raw"), "x");
  linkSync(join(root, "disk1.raw"), join(root, "other-name.raw"));
  const first = file(root, 1);
  const { name, nics, uuid } = first.vm as { name: string; nics: object[]; uuid: string };
  mkdirSync(join(root, "own1"));
  const held = await beTheOnlyGuardian(read(first), "/etc/remus/one.yaml", locks);
  const siblings: [Record<string, unknown>, RegExp][] = [
    [first, /this VM \(UUID .*\), a VM of this name \(only1\), runDirectory/],
    [file(root, 2, { vm: { uuid } }), /has this VM \(UUID/],
    [file(root, 2, { vm: { name } }), /has a VM of this name \(only1\)\./],
    [file(root, 2, { runDirectory: `${root}/own1/../own1/run` }), /has runDirectory/],
    [file(root, 2, { vm: { name }, stateDirectory: first.stateDirectory }), /only1 in stateDirectory/],
    [file(root, 2, { vm: { name }, imageDirectory: first.imageDirectory }), /only1 in imageDirectory/],
    [
      file(root, 2, { vm: { disks: [{ image: `${root}/other-name.raw`, format: "raw" }] } }),
      /has disk image .*other-name/,
    ],
    [file(root, 2, { vm: { nics } }), /has tap only1/],
    [
      file(root, 2, { replication: { ...(first.replication as object), peer: "127.0.0.1:2" } }),
      /has replication\.listen 127\.0\.0\.1:7101/,
    ],
  ];
  for (const [fields, what] of siblings)
    await assert.rejects(beTheOnlyGuardian(read(fields), "two.yaml", locks), (error: Error) => {
      assert.ok(error instanceof NotTheOnlyGuardian);
      assert.match(error.message, what);
      assert.match(
        error.message,
        new RegExp(`VM only1 that runs here as pid ${process.pid} \\(/etc/remus/one`),
      );
      return true;
    });
  assert.equal(existsSync(join(root, "own2")), false, "nothing was touched");
  const other = await beTheOnlyGuardian(
    read(file(root, 2, { imageDirectory: first.imageDirectory })),
    "2",
    locks,
  );
  await held.giveBack();
  await (await beTheOnlyGuardian(read(first), "one.yaml", locks)).giveBack();
  await other.giveBack();
  assert.deepEqual(readdirSync(locks[0]!), [".turn"], "no file of a lock is left");
});

test("a directory for locks that others may write to is not used", async (t) => {
  const root = folder(t);
  const [shared, own] = [join(root, "shared"), join(root, "own")];
  mkdirSync(shared, { mode: 0o777 });
  chmodSync(shared, 0o777);
  const config = read(file(root, 1));
  await (await beTheOnlyGuardian(config, "f", [shared, own])).giveBack();
  assert.deepEqual(readdirSync(shared), []);
  await assert.rejects(beTheOnlyGuardian(config, "f", [shared]), /shared can be changed by every user/);
});

test("I3: a guardian is the only one also after a login's end has removed the folder of its locks, and ends as it would have", async (t) => {
  const root = folder(t);
  const [login, state] = [join(root, "login"), join(root, "state")];
  const config = read(file(root, 1));
  const held = await beTheOnlyGuardian(config, "f", [login, state]);
  rmSync(login, { recursive: true });
  await assert.rejects(beTheOnlyGuardian(config, "f", [login, state]), NotTheOnlyGuardian);
  rmSync(login, { recursive: true });
  await held.giveBack();
  assert.deepEqual(readdirSync(state), [".turn"]);
  await (await beTheOnlyGuardian(config, "f", [login, state])).giveBack();
});

test("locks are not kept, and nothing is tidied, in a folder behind somebody else's link", async (t) => {
  const root = folder(t);
  const [place, precious] = [join(root, "place"), join(root, "precious")];
  for (const path of [place, precious]) mkdirSync(path, { mode: 0o700 });
  await writeFile(join(precious, "key"), "x");
  symlinkSync(precious, join(place, "locks"));
  chmodSync(place, 0o777);
  const config = read(file(root, 1));
  await assert.rejects(
    beTheOnlyGuardian(config, "f", [join(place, "locks")]),
    /place can be changed by every/,
  );
  assert.deepEqual(readdirSync(precious), ["key"]);
});

test("I3: the same guardian started a second time ends with status 3, names the first, and touches neither socket nor witness", async (t) => {
  const root = folder(t);
  const [firstWitness, secondWitness] = [await silentWitness(t), await silentWitness(t)];
  const [one, two] = [join(root, "one.json"), join(root, "two.json")];
  const fields = file(root, 1);
  await writeFile(one, JSON.stringify({ ...fields, witness: firstWitness.config }));
  await writeFile(two, JSON.stringify({ ...fields, witness: secondWitness.config }));
  const first = start(t, one);
  const socket = join(root, "own1/run/control.sock");
  const control = await connected(socket, first.ended);
  t.after(() => control.close());
  const { ino, mode } = statSync(socket);
  assert.equal(mode & 0o777, 0o600, "orders are for its user alone");
  assert.ok(firstWitness.asked() > 0);

  const second = start(t, two);
  assert.equal(await second.ended, 3);
  assert.match(second.said(), new RegExp(`pid ${first.child.pid} \\(${one}\\) has this VM`));
  assert.equal(secondWitness.asked(), 0);
  assert.equal(statSync(socket).ino, ino);
  assert.equal((await control.status()).role, "starting");

  // The lock goes with its holder, however that ends.
  first.child.kill("SIGKILL");
  await first.ended;
  const third = start(t, two);
  (await connected(socket, third.ended)).close();
});

/** It takes questions and never answers: a guardian that has begun stays where it asks who has the VM. */
async function silentWitness(t: TestContext) {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => void sockets.add(socket)).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const { port } = server.address() as AddressInfo;
  return { config: { kind: "server", url: `http://127.0.0.1:${port}` }, asked: () => sockets.size };
}

function start(t: TestContext, path: string) {
  const child: ChildProcess = spawn(process.execPath, [MAIN, path], { stdio: ["ignore", "ignore", "pipe"] });
  let text = "";
  child.stderr!.setEncoding("utf8").on("data", (more: string) => {
    text += more;
  });
  const ended = once(child, "close").then(([status]) => status as number | null);
  t.after(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  return { child, ended, said: () => text };
}

/** Asked again and again: a socket that is not there yet has no event. A guardian that ends is an error. */
async function connected(
  path: string,
  ended: Promise<unknown> = new Promise(() => {}),
): Promise<ControlClient> {
  let over = false;
  void ended.then(() => {
    over = true;
  });
  for (const until = deadline(); ; ) {
    try {
      return await ControlClient.connect(path, () => {});
    } catch (error) {
      if (until.aborted || over) throw error;
      await new Promise((again) => setTimeout(again, 20));
    }
  }
}
