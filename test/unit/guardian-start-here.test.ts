// What an operator must say before a VM is booted from a backup's disks (I2, I3), and that a refusal changes nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackupState } from "../../src/core/backup.ts";
import { type StartHereParts, startHere } from "../../src/guardian/start-here.ts";

type Images = "owner" | "replica" | "syncing";

interface Circumstances {
  readonly images?: Images;
  readonly phase?: string;
  readonly peer?: boolean;
  readonly newest?: number | undefined;
  /** What comes of the question. */
  readonly verdict?: "granted" | "denied" | "silence";
  readonly disks?: readonly { readonly storage: "replicated" | "shared" }[];
}

function backup({ images = "owner", phase = "waiting", peer = true, newest, verdict, disks }: Circumstances) {
  const done: string[] = [];
  const config = {
    role: "backup",
    vm: { name: "vm1", disks: disks ?? [{ storage: "replicated" }] },
    replication: { listen: [{}], ...(peer ? { peer: [{}] } : {}) },
  };
  const parts = {
    post: {
      config,
      log: { warn: () => {} },
      record: { state: { generation: 3, images } },
      witness: {
        latest: async () => (newest === undefined ? undefined : { generation: newest, host: "b" }),
        ask: async (generation: number) => {
          done.push(`asks with ${generation}`);
          if (verdict === "silence") throw new Error("the witness is silent");
          return { generation: generation + 1, granted: verdict !== "denied" };
        },
      },
    },
    state: () => ({ phase, generation: 2 }) as unknown as BackupState,
    shutOut: () => void done.push("shut out"),
    start: (generation: number) => void done.push(`start ${generation}`),
    anew: () => void done.push("anew"),
  } as unknown as StartHereParts;
  return { done, parts };
}

const SURE = { runsNowhereElse: true };

test("the host that ran the VM last starts it as the generation after the newest", async () => {
  for (const [newest, wins] of [
    [undefined, 4],
    [2, 4],
    [7, 8],
  ] as const) {
    const { done, parts } = backup({ newest });
    assert.deepEqual(await startHere(parts, SURE), { generation: wins });
    assert.deepEqual(done, ["shut out", `asks with ${wins - 1}`, `start ${wins}`]);
  }
});

test("what is not said in full, or cannot be done, is refused before anything changes", async () => {
  const refused: [Circumstances, Record<string, unknown>, string, RegExp][] = [
    [{}, {}, "not-confirmed", /there would be two of it/],
    [{}, { runsNowhereElse: "yes" }, "not-confirmed", /say "runsNowhereElse": true/],
    [{}, { ...SURE, force: true }, "bad-request", /no argument "force"/],
    [{ phase: "filling" }, SURE, "wrong-state", /this backup is filling/],
    [{ peer: false }, SURE, "wrong-state", /no replication\.peer/],
    [{ images: "replica" }, SURE, "not-confirmed", /say "evenFromCopy": true/],
    [{ images: "syncing" }, { ...SURE, evenFromCopy: true }, "half-copy", /never finished/],
  ];
  for (const [circumstances, args, code, message] of refused) {
    const { done, parts } = backup(circumstances);
    await assert.rejects(startHere(parts, args), { name: "OrderRefused", code, message });
    assert.deepEqual(done, []);
  }
});

test("a copy will do when that is said, and shared storage is nobody's copy", async () => {
  for (const [circumstances, args] of [
    [{ images: "replica" }, { ...SURE, evenFromCopy: true }],
    [{ images: "replica", disks: [{ storage: "shared" }] }, SURE],
    [{ images: "replica", disks: [] }, SURE],
  ] as const) {
    const { done, parts } = backup(circumstances);
    await startHere(parts, args);
    assert.equal(done.at(-1), "start 4");
  }
});

test("without the arbiter's word the host is a backup again", async () => {
  for (const [verdict, message] of [
    ["denied", /generation 4 was given to another host/],
    ["silence", /the witness is silent/],
  ] as const) {
    const { done, parts } = backup({ verdict });
    await assert.rejects(startHere(parts, SURE), { name: "OrderRefused", code: "failed", message });
    assert.deepEqual(done, ["shut out", "asks with 3", "anew"]);
  }
});
