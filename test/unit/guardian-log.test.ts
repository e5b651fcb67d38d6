// Where the log goes never keeps a guardian waiting, and never ends it: what cannot be written is dropped,
// counted, and told of later.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { openLog } from "../../src/guardian/log.ts";
import { LogSink } from "../../src/guardian/log-sink.ts";
import { closeDescriptor, receive, socketPair } from "../../src/os/socket.ts";

const DEADLINE_MS = 20_000;

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-log-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

async function until(what: string, is: () => boolean): Promise<void> {
  for (const end = Date.now() + DEADLINE_MS; !is(); ) {
    assert.ok(Date.now() < end, what);
    await new Promise((next) => setTimeout(next, 5));
  }
}

const messages = (text: string) =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => (JSON.parse(line) as { msg: string }).msg);

test("I5: a log on a full file system: lines are dropped and counted, and told of once there is room", async (t) => {
  const full = mkdtempSync(join(tmpdir(), "remus-log-"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", full]);
  const path = join(full, "log");
  const fd = openSync(path, "a");
  t.after(() => {
    closeSync(fd);
    execFileSync("umount", [full]);
    rmSync(full, { recursive: true });
  });
  const sink = new LogSink(fd, (lines, reason) => `${lines} lost: ${reason}\n`);
  sink.write("before\n");
  await until("the first line", () => readFileSync(path, "utf8") === "before\n");
  const ballast = join(full, "ballast");
  try {
    for (;;) writeFileSync(ballast, Buffer.alloc(64), { flag: "a" });
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, "ENOSPC");
  }
  // What the last page of the file has room for is written yet.
  for (let n = 0; n < 200; n++) sink.write(`${"x".repeat(200)}\n`);
  await until("nothing waits", () => sink.droppedLines > 100);
  await sink.end(DEADLINE_MS);
  rmSync(ballast);
  sink.write("after\n");
  await sink.end(DEADLINE_MS);
  const lines = readFileSync(path, "utf8").trimEnd().split("\n");
  assert.equal(lines[0], "before");
  assert.equal(lines.at(-1), "after");
  const [, lost] = /^(\d+) lost: ENOSPC/.exec(lines.at(-2)!) ?? [];
  assert.equal(lines.filter((line) => line.length === 200).length + Number(lost), 200);
});

test("I5: a log that goes to a reader who does not read: nothing waits, and what is lost is told when it reads again", async (t) => {
  const pipe = join(folder(t), "pipe");
  execFileSync("mkfifo", [pipe]);
  const from = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const to = openSync(pipe, "w");
  t.after(() => closeSync(from));
  const log = openLog("vm1", to);
  const long = "x".repeat(1000);
  for (let n = 0; n < 3000; n++) log.info(long);
  const buffer = Buffer.alloc(1 << 20);
  let read = "";
  const take = () => {
    try {
      read += buffer.toString("utf8", 0, readSync(from, buffer));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, "EAGAIN");
    }
  };
  await until("what waited is read", () => {
    take();
    return read.split("\n").length > 900;
  });
  log.info("last");
  await until("the last line", () => {
    take();
    return read.includes('"last"');
  });
  await log.end();
  closeSync(to);
  const told = messages(read);
  const [count] = told.flatMap((text) => /^(\d+) lines of this log were lost here/.exec(text)?.[1] ?? []);
  assert.equal(told.filter((text) => text === long).length + Number(count), 3000);
  assert.deepEqual(told.slice(-2), [
    `${count} lines of this log were lost here: nobody takes what is written`,
    "last",
  ]);
});

test("I5: a log whose reader has gone: nothing is thrown, and no signal ends the process", async (t) => {
  const [ours, theirs] = socketPair();
  t.after(() => closeDescriptor(ours));
  const log = openLog("vm1", ours);
  log.info("heard");
  const target = new Uint8Array(4096);
  assert.match(Buffer.from(target.subarray(0, receive(theirs, target))).toString(), /"msg":"heard"/);
  closeDescriptor(theirs);
  for (let n = 0; n < 100; n++) log.info("to nobody");
  await log.end();
});

test("a pipe that others share stays as it is: only this log does not wait for it", async (t) => {
  const script = `
    import { openLog } from "${join(import.meta.dirname, "../../src/guardian/log.ts")}";
    const log = openLog("vm1");
    log.info("one line");
    await log.end();
    // O_NONBLOCK is 0o4000 in flags.
    const { readFileSync } = await import("node:fs");
    process.exit(Number.parseInt(/flags:\\s*(\\d+)/.exec(readFileSync("/proc/self/fdinfo/1", "utf8"))[1], 8) & 0o4000 ? 1 : 0);
  `;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  let out = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  const [status] = await once(child, "close");
  assert.equal(status, 0);
  assert.deepEqual(messages(out), ["one line"]);
});
