// What a guardian does when it starts, compared with the table in docs/specs/protocol.md cell by cell.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { Claim } from "../../src/core/arbiter.ts";
import {
  askedToStart,
  type OwnRecord,
  recordOf,
  SET_OUT,
  type Starting,
  startUp,
  startUpUnasked,
} from "../../src/core/start-up.ts";

const RECORDS: Record<string, OwnRecord | undefined> = {
  none: undefined,
  "set out": SET_OUT,
  "owner, no session": { generation: 3, images: "owner" },
  "owner, session": { generation: 3, images: "owner", session: "s" },
  "owner, handed over": { generation: 3, images: "owner", session: "s", handedOver: true },
  syncing: { generation: 3, images: "syncing", session: "s" },
  replica: { generation: 3, images: "replica", session: "s" },
};
const claims = (host: string, ...generations: number[]) =>
  generations.map((generation) => ({ generation, host }));
const CLAIMS: Record<string, readonly Claim[] | undefined> = {
  "no claim": undefined,
  "own, older": claims("a", 1, 2),
  "own, equal": claims("a", 3),
  "own, newer": claims("a", 4, 9),
  "another's, older": claims("b", 1, 2),
  "another's, equal": claims("b", 3),
  "another's, newer": claims("b", 4, 9),
};

function decisions(starting: Pick<Starting, "record" | "newest">): string {
  const roles = (["primary", "backup"] as const).map(
    (role) => startUp({ host: "a", role, witnessed: true, detectionMs: 200, ...starting }).as,
  );
  return [...new Set(roles)].join(" / ");
}

/** Every claim is newer than no record, and than one that only says that this host has set out. */
function exists(record: OwnRecord | undefined, column: string): boolean {
  return recordOf(record) !== undefined || !/older|equal/.test(column);
}

test("protocol.md: what a guardian does when it starts is as in core/start-up, for every record, claim and role", () => {
  const cells = Object.entries(RECORDS).map(([name, record]) => {
    const row = Object.entries(CLAIMS).map(([column, newer]) => {
      if (!exists(record, column)) return "";
      // A host that had set out had asked for claim 1, and for no other.
      const possible = record === SET_OUT && column === "own, newer" ? claims("a", 1) : newer;
      const found = new Set((possible ?? [undefined]).map((newest) => decisions({ record, newest })));
      assert.equal(found.size, 1, `${name}, ${column}: one decision`);
      return [...found][0];
    });
    return `| ${[name, ...row].join(" | ")} |`;
  });
  const head = ["record", ...Object.keys(CLAIMS)];
  const table = [`| ${head.join(" | ")} |`, `|${"---|".repeat(head.length)}`, ...cells].join("\n");
  const text = readFileSync(new URL("../../docs/specs/protocol.md", import.meta.url), "utf8");
  assert.ok(text.includes(table), `docs/specs/protocol.md has another table than\n${table}`);
});

test("I3: whatever two hosts noted, and whoever asks first, they never both run the VM, and nobody starts what is not newest", () => {
  const hosts = ["a", "b"] as const;
  const newests = [
    undefined,
    ...[1, 2, 3, 4].flatMap((generation) => hosts.map((host) => ({ generation, host }))),
  ];
  const own = (record: OwnRecord | undefined) =>
    record !== undefined && record.images === "owner" && record.handedOver !== true;
  for (const [nameA, a] of Object.entries(RECORDS))
    for (const [nameB, b] of Object.entries(RECORDS))
      for (const newest of newests)
        for (const order of [hosts, [...hosts].reverse()]) {
          const records = { a, b };
          // Generation 3 was claimed, or promised by a host that had asked for it and was at 2 before.
          if ((recordOf(a) ?? recordOf(b)) !== undefined && (newest?.generation ?? 0) < 2) continue;
          // Nor do both note that they own one generation: each does so with the claim in its name, or with
          // the other's promise.
          if ([a, b].every((record) => own(recordOf(record)))) continue;
          const told = `A ${nameA}, B ${nameB}, newest ${JSON.stringify(newest)}, ${order[0]} is quicker`;
          const running = bothStart(order, records, newest);
          assert.ok(running.length <= 1, `two of one: ${told}`);
          for (const host of running) {
            assert.ok(records[host] === undefined || own(records[host]), `a copy is started: ${told}`);
            const olds =
              newest !== undefined &&
              newest.host !== host &&
              newest.generation > (records[host]?.generation ?? 0);
            assert.ok(!olds, `older disks are started: ${told}`);
          }
        }
});

/**
 * The hosts start at once and see the same newest claim; what both ask for is given to the first in `order`.
 * Returns who runs the VM.
 */
function bothStart<Host extends string>(
  order: readonly Host[],
  records: Readonly<Record<Host, OwnRecord | undefined>>,
  newest: Claim | undefined,
): Host[] {
  let claim = newest;
  const ask = (host: string, generation: number) => {
    const granted = (claim?.generation ?? 0) <= generation;
    if (granted) claim = { generation: generation + 1, host };
    return { granted, generation: claim!.generation };
  };
  return order.filter((host) => {
    for (;;) {
      const starting = { host, role: "primary", witnessed: true, detectionMs: 200 } as const;
      const decision = startUp({ ...starting, record: records[host], newest: claim });
      if (decision.as === "ask") return askedToStart(ask(host, decision.generation)).as === "primary";
      if (decision.as !== "claim") return decision.as === "primary";
      if (ask(host, decision.generation).granted) return true;
    }
  });
}

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
  // The claim that it lacks is made good first.
  assert.deepEqual(generation(7, 3, "a"), ["claim", 6]);
  assert.deepEqual(generation(7, 3, "b"), ["claim", 6]);
  assert.deepEqual(generation(7, 7, "b"), ["primary", 7]);
});

const first = { host: "a", witnessed: true, detectionMs: 200, record: undefined } as const;

test("a host that knows nothing claims generation 1, or begins as a backup with the claim's", () => {
  const why = "no host has had the VM";
  assert.deepEqual(startUp({ ...first, role: "primary", newest: undefined }), {
    as: "claim",
    generation: 0,
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
  const at = "2026-12-01T00:00:00.000Z";
  assert.match(
    refusal(undefined, { generation: 2, host: "a", at }),
    /generation 2, on 2026-12-01T00:00:00\.000Z, but has no record.*state file back/,
  );
  assert.match(refusal(SET_OUT, { generation: 2, host: "a" }), /no record of what became of it/);
  for (const one of [undefined, SET_OUT])
    assert.match(
      refusal(one, { generation: 2, host: "b" }),
      /given to b as generation 2, and this host has no record/,
    );
});
