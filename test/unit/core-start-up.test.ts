// What a guardian does when it starts, compared with the table in docs/specs/protocol.md cell by cell.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  askedToStart,
  type OwnRecord,
  type Starting,
  startUp,
  startUpUnasked,
} from "../../src/core/start-up.ts";

const RECORDS: Record<string, OwnRecord | undefined> = {
  none: undefined,
  "owner, no session": { generation: 3, images: "owner" },
  "owner, session": { generation: 3, images: "owner", session: "s" },
  "owner, handed over": { generation: 3, images: "owner", session: "s", handedOver: true },
  syncing: { generation: 3, images: "syncing", session: "s" },
  replica: { generation: 3, images: "replica", session: "s" },
};
const CLAIMS: Record<string, readonly NonNullable<Starting["newest"]>[] | undefined> = {
  "no claim": undefined,
  "own, not newer": [2, 3].map((generation) => ({ generation, host: "a" })),
  "own, newer": [4, 9].map((generation) => ({ generation, host: "a" })),
  "another's, not newer": [2, 3].map((generation) => ({ generation, host: "b" })),
  "another's, newer": [4, 9].map((generation) => ({ generation, host: "b" })),
};

function decisions(starting: Pick<Starting, "record" | "newest">): string {
  const roles = (["primary", "backup"] as const).map(
    (role) => startUp({ host: "a", role, witnessed: true, detectionMs: 200, ...starting }).as,
  );
  return [...new Set(roles)].join(" / ");
}

test("protocol.md: what a guardian does when it starts is as in core/start-up", () => {
  const text = readFileSync(new URL("../../docs/specs/protocol.md", import.meta.url), "utf8");
  const [head, , ...rows] = text
    .split("\n## Starting\n")[1]!
    .split("| record | no claim")[1]!
    .split("\n\n")[0]!
    .split("\n")
    .map((line, n) => (n === 0 ? `| record | no claim${line}` : line).split("|").slice(1, -1))
    .map((cells) => cells.map((cell) => cell.trim()));
  assert.deepEqual(head, ["record", ...Object.keys(CLAIMS)]);
  assert.deepEqual(
    rows.map(([name]) => name),
    Object.keys(RECORDS),
  );
  for (const [name, ...cells] of rows)
    for (const [n, cell] of cells.entries()) {
      const claims = Object.values(CLAIMS)[n];
      const record = RECORDS[name!];
      // Every claim is newer than no record.
      if (record === undefined && head![n + 1]!.endsWith("not newer")) continue;
      for (const newest of claims ?? [undefined])
        assert.equal(decisions({ record, newest }), cell, `${name}, ${head![n + 1]}`);
    }
});

test("the generation is the greater of the claim's and the record's (I3)", () => {
  const generation = (record: number, claim: number, host: string) => {
    const decision = startUp({
      host: "a",
      role: "primary",
      witnessed: true,
      detectionMs: 200,
      record: { generation: record, images: "owner" },
      newest: { generation: claim, host },
    });
    return decision.as === "nothing" ? undefined : [decision.as, decision.generation];
  };
  assert.deepEqual(generation(3, 7, "a"), ["primary", 7]);
  assert.deepEqual(generation(3, 7, "b"), ["backup", 7]);
  assert.deepEqual(generation(7, 3, "a"), ["primary", 7]);
  assert.deepEqual(generation(7, 3, "b"), ["primary", 7]);
});

const first = { host: "a", witnessed: true, detectionMs: 200, record: undefined } as const;

test("a host that knows nothing begins with generation 1, or with the claim's", () => {
  const why = "no host has had the VM";
  assert.deepEqual(startUp({ ...first, role: "primary", newest: undefined }), {
    as: "primary",
    generation: 1,
    why,
  });
  const late = startUp({ ...first, role: "backup", newest: { generation: 4, host: "b" } });
  assert.equal(late.as === "backup" && late.generation, 4);
});

test("where nobody keeps claims, a host does not wait for one", () => {
  const record: OwnRecord = { generation: 2, images: "owner", session: "s" };
  const decision = startUp({
    host: "a",
    role: "primary",
    witnessed: false,
    detectionMs: 200,
    record,
    newest: undefined,
  });
  assert.deepEqual([decision.as, decision.as === "primary" && decision.generation], ["primary", 2]);
});

test("the backup of the last protection is given time to ask first (I4)", () => {
  const record: OwnRecord = { generation: 2, images: "owner", session: "s" };
  const decision = startUp({ ...first, role: "primary", record, newest: undefined });
  assert.deepEqual([decision.as, decision.as === "ask" && decision.waitMs], ["ask", 4000]);
});

test("the arbiter is waited for exactly where its answer can matter", () => {
  for (const [name, record] of Object.entries(RECORDS))
    for (const role of ["primary", "backup"] as const) {
      const starting = { host: "a", role, witnessed: true, detectionMs: 200, record };
      const decisions = Object.values(CLAIMS)
        .flatMap((claims): (Starting["newest"] | undefined)[] => [...(claims ?? [undefined])])
        .map((newest) => startUp({ ...starting, newest }).as);
      const matters = decisions.some((as) => as !== "backup");
      assert.equal(startUpUnasked(starting)?.as, matters ? undefined : "backup", `${name}, ${role}`);
    }
});

test("where nobody keeps claims, it is decided without", () => {
  const starting = { host: "a", role: "primary", witnessed: false, detectionMs: 200 } as const;
  assert.equal(startUpUnasked({ ...starting, record: undefined })?.as, "primary");
  assert.equal(startUpUnasked({ ...starting, record: { generation: 1, images: "syncing" } })?.as, "nothing");
});

test("who asked to start runs the VM only if that was granted (I3)", () => {
  assert.deepEqual(askedToStart({ granted: true, generation: 5 }), {
    as: "primary",
    generation: 5,
    why: "the backup has not asked for the VM",
  });
  const denied = askedToStart({ granted: false, generation: 5 });
  assert.deepEqual([denied.as, denied.as === "backup" && denied.generation], ["backup", 5]);
});

test("a refusal to start says what the images are, and what to do", () => {
  const refusal = (record: OwnRecord | undefined, newest: Starting["newest"]) =>
    startUp({ host: "a", role: "primary", witnessed: true, detectionMs: 200, record, newest }).why;
  const record = { generation: 3, session: "s" };
  assert.match(refusal({ ...record, images: "syncing" }, undefined), /never finished.*remove the state file/);
  assert.match(refusal({ ...record, images: "replica" }, undefined), /copy of the other host's/);
  assert.match(
    refusal({ ...record, images: "owner", handedOver: true }, undefined),
    /given to the other host/,
  );
  assert.match(refusal(undefined, { generation: 2, host: "a" }), /no record.*state file back/);
});
