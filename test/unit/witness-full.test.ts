// A witness that can be read and not written is none: it is found out by looking, told of at once, and is
// back when there is room (I4).

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import type { HeardEvent } from "../../src/guardian/control/events.ts";
import { WitnessWatch } from "../../src/guardian/watch/witness-watch.ts";
import { MARK } from "../../src/witness/lock-directory.ts";
import type { WitnessChoice } from "../../src/witness/open-witness.ts";
import { EtcdCluster } from "./witness-etcd-cluster.ts";
import { folder, WitnessProcess } from "./witness-server-process.ts";

const skip = process.geteuid?.() === 0 ? false : "mounting file systems needs root";
const vm = randomUUID();

/** A small file system of its own, gone with the test. */
function smallDisk(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-witness-"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "remus-test", path]);
  t.after(() => {
    execFileSync("umount", ["--lazy", path]);
    rmdirSync(path);
  });
  return path;
}

/** Takes all room there is; returns what gives it back. */
function fill(directory: string): () => void {
  const path = join(directory, "something-else");
  const file = openSync(path, "a");
  try {
    for (;;) writeSync(file, Buffer.alloc(4096));
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, "ENOSPC");
  } finally {
    closeSync(file);
  }
  return () => rmSync(path);
}

/**
 * The same until `told` has come: what somebody was just writing there may have been removed after the first
 * time.
 */
async function fillUntil<T>(
  directory: string,
  told: Promise<T>,
): Promise<{ told: T; freeAgain: () => void }> {
  for (;;) {
    const freeAgain = fill(directory);
    const heard = await Promise.race([told.then((what) => ({ what })), pause(50)]);
    if (heard !== undefined) return { told: heard.what, freeAgain };
  }
}

/** A guardian's watch over the witness. */
function watched(t: TestContext, choice: WitnessChoice) {
  const alarms = new EventTarget();
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  const control = {
    publish: ({ raised, text }: HeardEvent) =>
      void alarms.dispatchEvent(Object.assign(new Event(raised === true ? "raised" : "lowered"), { text })),
  };
  const watch = new WitnessWatch({ choice, vm, host: "host-a", log, control, everyMs: 100 });
  t.after(() => watch.close());
  watch.begin();
  const next = async (kind: "raised" | "lowered") => {
    const [event] = (await once(alarms, kind, { signal: AbortSignal.timeout(60_000) })) as [{ text: string }];
    return event.text;
  };
  return { watch, next };
}

test("I4: Remus's witness on a full disk lives on, is no witness meanwhile, and loses nothing", {
  skip,
}, async (t) => {
  const disk = smallDisk(t);
  const server = await WitnessProcess.start(t, join(disk, "claims"), "--create");
  const { watch, next } = watched(t, { kind: "server", url: server.url });
  assert.equal((await watch.ask(1)).granted, true);
  const raised = next("raised");
  const { told, freeAgain } = await fillUntil(disk, raised);
  assert.match(told, /no claim can be stored: ENOSPC/);
  assert.equal(watch.status.reachable, false);
  const asked = Promise.all(
    Array.from({ length: 40 }, (_, n) => watch.ask(2 + n, AbortSignal.timeout(15_000))),
  );
  asked.catch(() => {});
  const lowered = next("lowered");
  freeAgain();
  await lowered;
  assert.equal(watch.status.reachable, true);
  assert.ok((await asked).some(({ granted }) => granted));
  const newest = await watch.latest();
  assert.deepEqual([newest?.generation, newest?.host], [42, "host-a"]);
  await server.end("SIGKILL");
  const again = await WitnessProcess.start(t, join(disk, "claims"), "--listen", `127.0.0.1:${server.port}`);
  assert.equal(again.url, server.url);
  assert.deepEqual(
    await watch.latest(AbortSignal.timeout(15_000)),
    newest,
    "I3: no claim is forgotten, and none is torn",
  );
  assert.deepEqual(
    readdirSync(disk).filter((name) => name !== "claims" && name !== "claims.check"),
    [],
  );
});

test("I4: shared storage that is full or read-only is no witness until it can be written again", {
  skip,
}, async (t) => {
  const disk = smallDisk(t);
  writeFileSync(join(disk, MARK), "");
  const { watch, next } = watched(t, { kind: "lock-file", directory: disk });
  assert.equal((await watch.ask(1)).granted, true);
  let raised = next("raised");
  const { told, freeAgain } = await fillUntil(disk, raised);
  assert.match(told, /ENOSPC/);
  let lowered = next("lowered");
  freeAgain();
  await lowered;
  raised = next("raised");
  execFileSync("mount", ["-o", "remount,ro", disk]);
  assert.match(await raised, /EROFS/);
  lowered = next("lowered");
  execFileSync("mount", ["-o", "remount,rw", disk]);
  await lowered;
  const { generation, host } = (await watch.latest())!;
  assert.deepEqual([generation, host], [2, "host-a"]);
});

test("I4: an etcd that answers reads and refuses writes (NOSPACE) is no witness until the alarm is disarmed; looking stores nothing", async (t) => {
  const cluster = await EtcdCluster.start(folder(t), 1, undefined, ["--quota-backend-bytes", `${4 << 20}`]);
  t.after(() => cluster.end());
  const { watch, next } = watched(t, { kind: "etcd", endpoints: cluster.endpoints });
  assert.equal((await watch.ask(1)).granted, true);
  const revision = async () => {
    const { header } = await cluster.order("/v3/kv/range", { key: "AA==" });
    return (header as { revision: string }).revision;
  };
  const before = await revision();
  const asked = Array.from({ length: 20 }, () => watch.look());
  await Promise.all(asked);
  assert.equal(watch.status.reachable, true);
  assert.equal(await revision(), before);
  const raised = next("raised");
  const value = Buffer.alloc(200_000).toString("base64");
  let refused: Error | undefined;
  for (let n = 0; n < 100 && refused === undefined; n++)
    await cluster
      .order("/v3/kv/put", { key: Buffer.from(`x${n}`).toString("base64"), value })
      .catch((error: Error) => {
        refused = error;
      });
  assert.match(refused!.message, /space exceeded/);
  assert.match(await raised, /It can be read, and takes no claims.*etcdctl alarm disarm/);
  const lowered = next("lowered");
  const { header } = await cluster.order("/v3/kv/deleterange", { key: "eA==", range_end: "eQ==" });
  await cluster.order("/v3/kv/compaction", {
    revision: (header as { revision: string }).revision,
    physical: true,
  });
  await cluster.order("/v3/maintenance/defragment", {});
  const { alarms } = await cluster.order("/v3/maintenance/alarm", { action: "GET" });
  for (const alarm of alarms as object[])
    await cluster.order("/v3/maintenance/alarm", { action: "DEACTIVATE", ...alarm });
  await lowered;
  assert.equal((await watch.ask(2)).granted, true);
});
