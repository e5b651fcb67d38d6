/**
 * A QEMU that ends says why, and whoever was waiting for it hears that: at its start, and whenever its
 * monitor is lost.
 */
import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { lastWords } from "../../src/hypervisor/qemu/last-words.ts";
import { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import { loadStandby } from "../../src/hypervisor/qemu/standby.ts";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-qemu-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A machine of 16 MiB under software emulation, with these arguments. */
function launch(runDirectory: string, ...args: string[]) {
  const monitors = QemuProcess.monitorPaths(runDirectory);
  return QemuProcess.start({
    command: [
      ...["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-m", "16"],
      ...[
        "-machine",
        "pc,accel=tcg",
        ...monitors.flatMap((path) => ["-qmp", `unix:${path},server=on,wait=off`]),
      ],
      ...args,
    ],
    runDirectory,
    bindLifetimes: true,
  });
}

async function running(t: TestContext, ...args: string[]): Promise<{ qemu: QemuProcess; log: string }> {
  const dir = folder(t);
  const qemu = await launch(dir, ...args);
  t.after(async () => {
    qemu.kill();
    await qemu.exited;
  });
  return { qemu, log: join(dir, "qemu.log") };
}

for (const [what, args, words] of [
  ["a CPU model that it does not know", ["-cpu", "pentium9"], /unable to find CPU model 'pentium9'/],
  ["a device that it does not know", ["-device", "no-such"], /'no-such' is not a valid device model name/],
  ["a device's option that it does not know", ["-device", "virtio-rng-pci,x=1"], /Property.*\.x.* not found/],
  ["a disk that it cannot open", ["-drive", "file=/no/disk"], /Could not open '\/no\/disk'/],
  ["a kernel that is not there", ["-kernel", "/no/kernel"], /could not open kernel file '\/no\/kernel'/],
  ["a machine that it does not know", ["-machine", "no-such"], /unsupported machine type/i],
] as const)
  test(`${what}: the start fails with QEMU's own words, and names its log`, async (t) => {
    const dir = folder(t);
    // Its monitors are there before most of this is found out, so the connection may be lost first.
    for (let time = 0; time < 3; time++)
      await assert.rejects(launch(dir, ...args), (error: Error) => {
        assert.match(error.message, /^QEMU ended \(exit status 1\)/);
        assert.match(error.message, words);
        assert.ok(error.message.includes(join(dir, "qemu.log")), error.message);
        return true;
      });
    assert.match(readFileSync(join(dir, "qemu.log"), "utf8"), words);
  });

test("a program that is not there is named", async (t) => {
  const runDirectory = folder(t);
  const command = ["/no/such/qemu"];
  await assert.rejects(QemuProcess.start({ command, runDirectory, bindLifetimes: true }), /\/no\/such\/qemu/);
});

test("commands that were under way when QEMU ended fail with how it ended, not with the socket's error", async (t) => {
  const { qemu, log } = await running(t);
  const answers = Promise.allSettled(
    ["query-status", "query-name"].map((command) => qemu.qmp.execute(command)),
  );
  await answers;
  const closed = Promise.withResolvers<void>();
  qemu.qmp.on("closed", () => closed.resolve());
  process.kill(qemu.pid, "SIGSTOP");
  const waiting = qemu.qmp.execute("query-status");
  process.kill(qemu.pid, "SIGKILL");
  await assert.rejects(waiting, (error: Error) => {
    assert.match(error.message, /QEMU ended \(SIGKILL\)/);
    assert.ok(error.message.includes(log), error.message);
    return true;
  });
  await closed.promise;
  // So does whatever is asked of it afterwards.
  await assert.rejects(qemu.qmp.execute("query-status"), /QEMU ended \(SIGKILL\)/);
});

test("a standby that refuses the state says why", async (t) => {
  const { qemu } = await running(t, "-S", "-incoming", "defer");
  await qemu.qmp.execute("migrate-set-capabilities", {
    capabilities: [{ capability: "events", state: true }],
  });
  // The state of another machine (docs/specs/qemu-stream.md).
  const name = Buffer.from("pc-no-such");
  const header = Buffer.from([0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 3, 7, 0, 0, 0, name.length, ...name]);
  const from = { header, blocks: [], side: [], device: Buffer.from([0]) };
  await assert.rejects(loadStandby(qemu.qmp, from), /(refused the state|died while).*QEMU ended.*pc-no-such/);
});

test("last words are its own, the newest, and found when the log was cut", (t) => {
  const log = join(folder(t), "qemu.log");
  writeFileSync(log, "an older QEMU said this\n");
  const words = lastWords(log, readFileSync(log).length);
  assert.equal(words(), `; it said nothing (${log})`);
  appendFileSync(log, "one\n\ntwo\nthree\nfour\n");
  assert.equal(words(), `: two / three / four (from ${log})`);
  truncateSync(log, 0);
  appendFileSync(log, "after a rotation\n");
  assert.equal(words(), `: after a rotation (from ${log})`);
  rmSync(log);
  assert.match(words(), /cannot be read: ENOENT/);
});
