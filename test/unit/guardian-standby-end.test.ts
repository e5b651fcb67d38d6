/** What goes with a standby that is gone, and what an error in the backup's own code costs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackupState } from "../../src/core/backup.ts";
import { BackupFailures } from "../../src/guardian/backup/failures.ts";
import { clearAway } from "../../src/guardian/backup/standby-end.ts";

test("a step that fails is told, and keeps no other from being taken", async () => {
  const done: string[] = [];
  const told: string[] = [];
  const does = (what: string) => () => void done.push(what);
  const fails = () => {
    throw new Error("EBUSY");
  };
  await clearAway(
    {
      test: { drop: fails },
      link: {
        refusalHeard: () => Promise.reject(new Error("EPIPE")),
        close: does("close"),
        shut: does("shut"),
      },
      held: { forget: does("forget") },
      disks: { close: fails },
      images: { discard: does("discard") },
      taps: { restore: does("restore") },
    },
    { error: (text: string) => void told.push(text) },
  );
  assert.deepEqual(done, ["close", "shut", "forget", "discard", "restore"]);
  assert.deepEqual(
    told.map((text) => /(E[A-Z]+)$/.exec(text)?.[1]),
    ["EBUSY", "EPIPE", "EBUSY"],
  );
});

test("I4: an error of an armed backup's own code loses the link, and what is acknowledged stays; not where the core lacks a commit", () => {
  const done: string[] = [];
  const failures = new BackupFailures({
    log: { error() {}, warn() {}, info() {} } as never,
    control: { publish() {} },
    state: (): BackupState => ({ phase: "armed", generation: 1, acked: 3, committed: 2 }),
    feed: ({ type }) => void done.push(type),
    loseLink: () => void done.push("lost"),
    beginAnew: () => void done.push("anew"),
  });
  failures.failed({ duty: "uncaught" }, new TypeError("x is undefined"));
  failures.failed({ duty: "step", event: { type: "checkpoint-whole", epoch: 4 } }, new Error("a bug"));
  failures.failed({ duty: "step", event: { type: "committed", epoch: 3 } }, new Error("a bug"));
  failures.failed({ duty: "step", event: { type: "primary-lost", reason: "" } }, new Error("a bug"));
  assert.deepEqual(done, ["lost", "lost", "anew", "anew"]);
});
