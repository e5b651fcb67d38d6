/** A stranger who names a great generation must not make the real primary an old one for ever. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Claim } from "../../src/core/arbiter.ts";
import { refuseGeneration } from "../../src/guardian/backup/caller-generation.ts";

type Parts = Parameters<typeof refuseGeneration>[2];

function witness(newest: Claim | undefined | Error, kind = "server") {
  let asked = 0;
  const latest = async () => {
    asked++;
    if (newest instanceof Error) throw newest;
    return newest;
  };
  const parts = {
    config: { witness: { kind } },
    witness: { name: "the witness", latest },
  } as unknown as Parts;
  return { parts, asked: () => asked };
}

const code = async (generation: number, parts: Parts) => (await refuseGeneration(generation, 5, parts))?.code;

test("a generation that is this host's own needs no witness, an older one is over", async () => {
  const { asked, parts } = witness(new Error("nobody is there"));
  assert.equal(await code(5, parts), undefined);
  assert.equal(await code(4, parts), "stale-generation");
  assert.equal(asked(), 0);
});

test("I3: a greater one is one that the witness knows", async () => {
  const { parts } = witness({ generation: 9, host: "a" });
  assert.deepEqual(
    await Promise.all([6, 9, 10, 4_294_967_294].map((generation) => code(generation, parts))),
    [undefined, undefined, "unknown-generation", "unknown-generation"],
  );
  assert.equal(await code(6, witness(undefined).parts), "unknown-generation");
});

test("while the witness does not answer nobody with a greater one is let in, and hears why", async () => {
  const refused = await refuseGeneration(6, 5, witness(new Error("nobody is there")).parts);
  assert.match(refused!.message, /cannot be known before the witness answers/);
});

test("the last generation leaves none for a failover, and is refused whatever the witness says", async () => {
  const last = 2 ** 32 - 1;
  for (const kind of ["server", "none"])
    assert.equal(await code(last, witness({ generation: last, host: "a" }, kind).parts), "generation-limit");
});

test("where nobody keeps claims, no more may have been missed than a host can miss", async () => {
  const { asked, parts } = witness(undefined, "none");
  assert.equal(await code(69, parts), undefined);
  assert.equal(await code(70, parts), "unknown-generation");
  assert.equal(asked(), 0);
});
