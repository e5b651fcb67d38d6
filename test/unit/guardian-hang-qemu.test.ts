/**
 * When a real QEMU is said to hang whose monitor takes no commands out of band (I4, I5). What stands between
 * strips that from its greeting.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { HangWatch } from "../../src/guardian/watch/hang-watch.ts";
import { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { eventually } from "../e2e/lab-session.ts";

const HUNG_MS = 300;
const WITHIN_MS = 30_000;

/** Listens at `path` until the test is over. */
async function serve(t: TestContext, path: string, use: (socket: Socket) => void): Promise<Server> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on("error", () => {}));
    use(socket);
  });
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  await new Promise<void>((listens) => server.listen(path, listens));
  return server;
}

async function qemuWithoutOob(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), "remus-hang-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const [plain, third] = [join(directory, "plain.sock"), join(directory, "third.sock")];
  const monitors = [...QemuProcess.monitorPaths(directory), third];
  const qemu = await QemuProcess.start({
    command: [
      ...["qemu-system-x86_64", "-M", "none", "-nodefaults", "-no-user-config", "-display", "none"],
      ...monitors.flatMap((path) => ["-qmp", `unix:${path},server=on,wait=off`]),
    ],
    runDirectory: directory,
    bindLifetimes: true,
  });
  t.after(async () => {
    qemu.kill();
    await qemu.exited;
  });
  let cut = () => {};
  await serve(t, plain, (client) => {
    const monitor = createConnection(third).on("error", () => client.destroy());
    t.after(() => monitor.destroy());
    client.pipe(monitor);
    monitor.once("data", (greeting) => {
      client.write(String(greeting).replace(/"oob"/, ""));
      monitor.pipe(client);
    });
    cut = () => client.destroy();
  });
  const watchdog = await Qmp.connect(plain, { oob: true });
  t.after(() => watchdog.close());
  return { qemu, directory, watchdog, cut: () => cut() };
}

function watch(t: TestContext, qemu: QemuProcess, watchdog: Qmp) {
  const [hung, alarms, warnings]: [string[], boolean[], string[]] = [[], [], []];
  const log = { info: () => {}, warn: (text: string) => void warnings.push(text), error: () => {} };
  const looks = { count: 0 };
  const hangs = new HangWatch({
    qemu: {
      watchdog,
      get processState() {
        looks.count++;
        return qemu.processState;
      },
    },
    hungMs: HUNG_MS,
    who: "the VM's QEMU",
    log: log as never,
    control: { publish: (event) => void alarms.push((event as unknown as { raised: boolean }).raised) },
    onHung: (reason) => void hung.push(reason),
  });
  t.after(() => hangs.close());
  return { hung, alarms, warnings, looks };
}

async function foundStopped(qemu: QemuProcess, { hung, alarms }: ReturnType<typeof watch>): Promise<void> {
  process.kill(qemu.pid, "SIGSTOP");
  await eventually("a stopped process is found", () => alarms.at(-1) === true && hung.length > 0, WITHIN_MS);
  process.kill(qemu.pid, "SIGCONT");
  await eventually("it is well", () => alarms.at(-1) === false, WITHIN_MS);
}

test("I5: a QEMU without out-of-band commands whose main loop waits for a disk is not taken to hang; one that is stopped is", async (t) => {
  const { qemu, directory, watchdog } = await qemuWithoutOob(t);
  assert.deepEqual([watchdog.takesOob, qemu.watchdog.takesOob], [false, true]);
  const found = watch(t, qemu, watchdog);
  await eventually("that is said", () => found.warnings.length > 0, WITHIN_MS);
  assert.match(found.warnings[0]!, /takes no commands out of band/);
  await foundStopped(qemu, found);
  found.hung.length = 0;

  // A server that says nothing: the main loop waits for it, as it does for a disk in a drain.
  const disk = join(directory, "silent.sock");
  const waiting = Promise.withResolvers<Socket>();
  await serve(t, disk, (socket) => waiting.resolve(socket));
  const added = qemu.qmp
    .execute("blockdev-add", { driver: "nbd", "node-name": "slow", server: { type: "unix", path: disk } })
    .catch((error: Error) => error);
  const server = await waiting.promise;
  let answered = false;
  const late = watchdog.execute("query-status").then(() => {
    answered = true;
  });
  const { count } = found.looks;
  // Eight looks are as long as a hang takes.
  await eventually("three times the time", () => found.looks.count > count + 24, WITHIN_MS);
  assert.deepEqual([answered, found.hung, found.alarms.at(-1)], [false, [], false]);
  server.destroy();
  await Promise.all([added, late]);
});

test("I4: a QEMU whose monitor for the watchdog is lost, and that is stopped then, is found to hang", async (t) => {
  const { qemu, watchdog, cut } = await qemuWithoutOob(t);
  // As if it took them: the first question is asked, and meets the end.
  Object.defineProperty(watchdog, "takesOob", { value: true });
  cut();
  const found = watch(t, qemu, watchdog);
  await eventually("that is said", () => found.warnings.length > 0, WITHIN_MS);
  assert.match(found.warnings[0]!, /cannot be asked out of band any more/);
  assert.deepEqual(found.hung, []);
  await foundStopped(qemu, found);
});
