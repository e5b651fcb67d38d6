// What an operator must say before a VM is booted from a backup's disks (I2, I3), and that a refusal changes
// nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackupState } from "../../src/core/backup.ts";
import { age, type StartHereParts, startHere } from "../../src/guardian/backup/start-here.ts";
import { checkedOrders } from "../../src/guardian/control/orders.ts";

const NOBODY = { onLeft: () => {} };

type Images = "owner" | "replica" | "syncing";

interface Circumstances {
  readonly images?: Images;
  readonly phase?: string;
  readonly newest?: number | undefined;
  /** The host of the newest claim. */
  readonly holder?: string;
  readonly at?: string;
  readonly generation?: number;
  /** What comes of the question. */
  readonly verdict?: "granted" | "denied" | "silence" | "unreachable";
  readonly disks?: readonly { readonly storage: "replicated" | "shared" }[];
}

function backup(circumstances: Circumstances) {
  const { images = "owner", phase = "waiting", newest, verdict, disks } = circumstances;
  const { at, generation = 3, holder = "a" } = circumstances;
  const done: string[] = [];
  const config = {
    role: "backup",
    host: "a",
    vm: { name: "vm1", disks: disks ?? [{ storage: "replicated" }] },
    replication: { listen: [{}] },
  };
  const parts = {
    context: {
      config,
      log: { warn: () => {} },
      record: { state: { generation, images } },
      witness: {
        latest: async () => {
          if (verdict === "unreachable") throw new Error("nobody is there");
          return newest === undefined ? undefined : { generation: newest, host: holder, at };
        },
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
    [{}, {}, "not-confirmed", /that makes two copies/],
    [{}, { runsNowhereElse: "yes" }, "bad-request", /"runsNowhereElse" must be true or false/],
    [{}, { runsNowhereElse: false }, "not-confirmed", /say "runsNowhereElse": true/],
    [{}, { ...SURE, force: true }, "bad-request", /no argument "force"/],
    [{ phase: "filling" }, SURE, "wrong-state", /this backup is filling/],
    [{ images: "replica" }, SURE, "not-confirmed", /say "evenFromCopy": true/],
    [{ images: "syncing" }, { ...SURE, evenFromCopy: true }, "half-copy", /never finished/],
  ];
  for (const [circumstances, args, code, message] of refused) {
    const { done, parts } = backup(circumstances);
    const order = checkedOrders({ "start-here": (given) => startHere(parts, given) })["start-here"]!;
    await assert.rejects(async () => order(args, NOBODY), { name: "OrderRefused", code, message });
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

test("older disks are started only by somebody who was told whose are newer, and how old that is (I2)", async () => {
  const newer = { newest: 5, holder: "b" } as const;
  const confirmed = { ...SURE, evenFromCopy: true };
  const hour = new Date(Date.now() - 3 * 3_600_000 - 5_000).toISOString();
  for (const [circumstances, message] of [
    [
      { ...newer, at: hour },
      /b was given VM vm1 as generation 5, 3 hours ago \(20.*of generation 3.*"evenOlderDisks": true/,
    ],
    [newer, /at a time that the witness does not know/],
    [{ ...newer, images: "replica" }, /b was given VM vm1/],
    // It had only set out: of its disks nothing is known.
    [{ ...newer, newest: 1, generation: 0 }, /of no known generation/],
  ] as [Circumstances, RegExp][]) {
    const refused = backup(circumstances);
    await assert.rejects(startHere(refused.parts, confirmed), { code: "not-confirmed", message });
    assert.deepEqual(refused.done, [], "nothing has changed");
    const { done, parts } = backup(circumstances);
    await startHere(parts, { ...confirmed, evenOlderDisks: true });
    assert.equal(done[0], "shut out");
  }
  for (const circumstances of [
    { newest: 5 },
    { newest: 3, holder: "b" },
    { ...newer, disks: [] },
    { ...newer, disks: [{ storage: "shared" }] },
  ] as Circumstances[])
    assert.ok((await startHere(backup(circumstances).parts, SURE)).generation > 3);
});

test("a host that had only set out does not know its disks", async () => {
  const { done, parts } = backup({ generation: 0 });
  await assert.rejects(startHere(parts, SURE), { code: "not-confirmed", message: /not known to this host/ });
  assert.deepEqual(done, []);
});

test("while the witness cannot be asked nothing changes", async () => {
  const { done, parts } = backup({ verdict: "unreachable" });
  await assert.rejects(startHere(parts, SURE), { code: "failed", message: /nobody is there/ });
  assert.deepEqual(done, []);
});

test("a claim's age is told in its largest unit", () => {
  const at = "2026-12-01T00:00:00.000Z";
  const told = (seconds: number) => age({ generation: 1, host: "b", at }, Date.parse(at) + seconds * 1000);
  assert.equal(told(-5), `0 seconds ago (${at})`);
  assert.equal(told(119), `119 seconds ago (${at})`);
  assert.equal(told(120), `2 minutes ago (${at})`);
  assert.equal(told(7200), `2 hours ago (${at})`);
  assert.equal(told(40 * 86_400), `40 days ago (${at})`);
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
