/**
 * Two of one on a host: the second guardian of a VM, or of anything that two VMs both call their own, ends at
 * once and has touched nothing (I3). The case that taught it took over the control socket of the one that
 * ran, and claimed a generation in its name.
 */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
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
  writeFileSync,
} from "node:fs";
import { writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { type TestContext, test } from "node:test";
import { type GuardianConfig, parseConfig } from "../../src/guardian/config/config.ts";
import { ControlClient } from "../../src/guardian/control/client.ts";
import { beTheOnlyGuardian, NotTheOnlyGuardian } from "../../src/guardian/exclusive/only-guardian.ts";
import { soles } from "../../src/guardian/exclusive/soles.ts";
import { devicesOn } from "../../src/os/block-device.ts";

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

test("I3: runDirectory is one's alone also where a bind mount shows it under another path", (t) => {
  const root = folder(t);
  mkdirSync(join(root, "own1"));
  mkdirSync(join(root, "elsewhere"));
  const [first, second] = [file(root, 1), file(root, 2, { runDirectory: `${root}/elsewhere/run` })];
  const module = (path: string) => new URL(`../../src/guardian/${path}`, import.meta.url).pathname;
  const script = `
    import { parseConfig } from "${module("config/config.ts")}";
    import { beTheOnlyGuardian } from "${module("exclusive/only-guardian.ts")}";
    import { execFileSync } from "node:child_process";
    const read = (fields) => parseConfig(JSON.stringify(fields), "f");
    await beTheOnlyGuardian(read(${JSON.stringify(first)}), "one", ["${root}/locks"]);
    execFileSync("mount", ["--bind", "${root}/own1", "${root}/elsewhere"]);
    await beTheOnlyGuardian(read(${JSON.stringify(second)}), "two", ["${root}/locks"])
      .then(() => console.log("started"), ({ message }) => console.log(message));
    process.exit();`;
  const args = ["-m", "--propagation", "private", process.execPath, "--input-type=module", "-e", script];
  const said = execFileSync("unshare", args, { encoding: "utf8" });
  assert.match(said, /has runDirectory .*elsewhere\/run/);
});

test("I3: ends of a VM, and what two files call a path, a file or a device, are one's alone", async (t) => {
  const root = folder(t);
  const locks = [join(root, "locks")];
  await writeFile(join(root, "disk1.raw"), "x");
  mkdirSync(join(root, "own1"));
  const extraArgs = ["-qmp", `unix:${root}/qmp,server=on,wait=off`];
  const vm = {
    ...{ vnc: `${root}/vnc.sock`, agent: `${root}/agent.sock`, serial: { file: `${root}/serial.log` } },
    extraArgs,
  };
  const held = await beTheOnlyGuardian(read(file(root, 1, { vm })), "one", locks);
  symlinkSync(join(root, "disk1.raw"), join(root, "log"));
  const taken: [Record<string, unknown>, RegExp][] = [
    [{ vnc: vm.agent }, /has vm\.vnc .*agent\.sock/],
    [{ serial: { file: `${root}/../${basename(root)}/serial.log` } }, /has vm\.serial/],
    [{ extraArgs }, /has vm\.extraArgs -qmp .*\/qmp\./],
    [{ extraArgs: ["-vnc", `unix:${vm.agent}`] }, /has vm\.extraArgs -vnc .*agent\.sock/],
    [{ agent: `${root}/qmp` }, /has vm\.agent .*\/qmp\./],
    // It would be appended to a disk.
    [{ serial: { file: `${root}/log` } }, /has vm\.serial .*log/],
  ];
  for (const [more, what] of taken)
    await assert.rejects(beTheOnlyGuardian(read(file(root, 2, { vm: more })), "two", locks), what);
  for (const more of [{}, { serial: { file: "/dev/null" } }])
    await (await beTheOnlyGuardian(read(file(root, 2, { vm: more })), "two", locks)).giveBack();
  await held.giveBack();
});

test("what leads out of a VM is none of its own disks, sockets or logs", async (t) => {
  const root = folder(t);
  await writeFile(join(root, "disk1.raw"), "x");
  linkSync(join(root, "disk1.raw"), join(root, "log"));
  const own = join(root, "own1/run");
  for (const [more, what] of [
    [{ vm: { serial: { file: `${root}/log` } } }, /vm\.serial .*log leads to disk image .*disk1\.raw/],
    [{ lab: { serialLog: `${root}/disk1.raw` } }, /lab\.serialLog .* leads to disk image/],
    [{ vm: { vnc: `${own}/control.sock` } }, /vm\.vnc .* leads to the control socket/],
    [{ vm: { agent: `${own}/qmp.sock` } }, /vm\.agent .* leads to a monitor of Remus's/],
    [
      { vm: { extraArgs: ["-chardev", `socket,id=c,path=${own}/control.sock,server=on`] } },
      /vm\.extraArgs -chardev .* leads to the control socket/,
    ],
    [{ vm: { agent: "/a", vnc: "/a" } }, /vm\.vnc \/a leads to vm\.agent \/a/],
  ] as const) {
    const started = beTheOnlyGuardian(read(file(root, 1, more)), "one.yaml", [join(root, "locks")]);
    await assert.rejects(started, what);
  }
  assert.equal(existsSync(join(root, "own1")), false, "nothing was touched");
});

test("a whole device is none of two guardians' that another one has a part of, and two parts are two", (t) => {
  const root = folder(t);
  const device = (path: string, dev: string, partition = false) => {
    mkdirSync(join(root, path, "holders"), { recursive: true });
    writeFileSync(join(root, path, "dev"), `${dev}\n`);
    if (partition) writeFileSync(join(root, path, "partition"), "1\n");
    symlinkSync(join(root, path), join(root, dev));
  };
  device("sda", "8:0");
  device("sda/sda1", "8:1", true);
  device("sda/sda2", "8:2", true);
  device("dm-0", "252:0");
  symlinkSync(join(root, "dm-0"), join(root, "sda/sda2/holders/dm-0"));
  assert.deepEqual(devicesOn("8:0", root).sort(), ["252:0", "8:0", "8:1", "8:2"]);
  assert.deepEqual(devicesOn("8:1", root), ["8:1"]);
  assert.deepEqual(devicesOn("8:2", root).sort(), ["252:0", "8:2"]);
  assert.deepEqual(devicesOn("252:0", root), ["252:0"]);
  assert.deepEqual(devicesOn("9:9", root), ["9:9"]);
});

test("two VMs of one MAC in one bridge are two of one, and in two bridges they are not", (t) => {
  const config = read(file(folder(t), 1));
  const names = (master: number | undefined) =>
    soles(config, () => ({ master })).flatMap((one) => one.names.filter((name) => name.startsWith("mac.")));
  assert.deepEqual(names(undefined), []);
  assert.match(names(7).join(), /^mac\.\d+\.7\.52:54:00:00:01:01$/);
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

test("what a guardian makes is its user's alone to change, whatever umask it was started with", async (t) => {
  const root = folder(t);
  const path = join(root, "one.json");
  await writeFile(path, JSON.stringify({ ...file(root, 1), witness: (await silentWitness(t)).config }));
  const script = `process.umask(0); process.argv[2] = ${JSON.stringify(path)}; await import(${JSON.stringify(MAIN)});`;
  const first = start(t, "--", ["--input-type=module", "-e", script]);
  (await connected(join(root, "own1/run/control.sock"), first.ended)).close();
  for (const made of ["own1", "own1/run", "own1/state"])
    assert.equal(statSync(join(root, made)).mode & 0o022, 0, made);
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

function start(t: TestContext, path: string, program: readonly string[] = [MAIN]) {
  const child: ChildProcess = spawn(process.execPath, [...program, path], {
    stdio: ["ignore", "ignore", "pipe"],
  });
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
