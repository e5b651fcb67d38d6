// What every kind of witness must do, whatever is behind it. Each test has a VM of its own.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { type TestContext, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import type { Arbiter, Claim, Verdict } from "../../src/core/arbiter.ts";
import { openWitness, type WitnessChoice } from "../../src/witness/open-witness.ts";

const deadline = () => AbortSignal.timeout(10_000);

export interface Recorded {
  readonly witness: Arbiter;
  readonly notices: string[];
  /** Resolves when the next notice of that kind has come. */
  next(kind: "unreachable" | "reachable"): Promise<string>;
}

export function open(t: TestContext, choice: WitnessChoice): Recorded {
  const notices: string[] = [];
  const waiting: [string, (text: string) => void][] = [];
  const note = (kind: string) => (text: string) => {
    notices.push(kind);
    for (const [wanted, resolve] of waiting) if (wanted === kind) resolve(text);
  };
  const witness = openWitness(choice, {
    unreachable: note("unreachable"),
    reachable: note("reachable"),
    warn: note("warn"),
  });
  t.after(() => witness.close());
  const next = (kind: string) => new Promise<string>((resolve) => waiting.push([kind, resolve]));
  return { witness, notices, next };
}

/** So many of the generations at least. */
export const MOSTLY = 0.8;

/**
 * Both ask for one generation after the other, as fast as they can. None is granted to both. Returns how many
 * each has won.
 */
export async function race(
  arbiters: readonly [Arbiter, Arbiter],
  generations: number,
  between: (generation: number) => Promise<void> | void = () => {},
): Promise<{ a: number; b: number }> {
  const vm = randomUUID();
  const play = async (arbiter: Arbiter, host: string): Promise<number[]> => {
    const won: number[] = [];
    for (let generation = 0; generation < generations; ) {
      const verdict = await arbiter.ask(vm, generation, host, deadline());
      assert.ok(verdict.generation > generation, "what holds is never older than what was asked for");
      if (verdict.granted) won.push(verdict.generation);
      ({ generation } = verdict);
      if (host === "host-a") await between(generation);
    }
    return won;
  };
  const [a, b] = await Promise.all([play(arbiters[0], "host-a"), play(arbiters[1], "host-b")]);
  const all = [...a, ...b];
  assert.equal(new Set(all).size, all.length, "I3: no generation is granted twice");
  // Who is overtaken before it hears of its grant is told of the later generation instead.
  assert.ok(all.length >= generations * MOSTLY, `${all.length} of ${generations} generations were granted`);
  const last = { generation: generations, host: a.includes(generations) ? "host-a" : "host-b" };
  for (const arbiter of arbiters) assert.deepEqual(untimed(await arbiter.latest(vm, deadline())), last);
  return { a: a.length, b: b.length };
}

/** A claim without its time, which is for people. */
export function untimed(claim: Claim | undefined): Pick<Claim, "generation" | "host"> | undefined {
  if (claim === undefined) return undefined;
  const { at, ...rest } = claim;
  assert.ok(Math.abs(Date.now() - Date.parse(at!)) < 3_600_000, `a claim says when it was asked for: ${at}`);
  return rest;
}

const granted = (generation: number): Verdict => ({ granted: true, generation });
const denied = (generation: number): Verdict => ({ granted: false, generation });

export function witnessSuite(what: string, choice: (t: TestContext) => Promise<WitnessChoice>): void {
  test(`I3: ${what}: one host is granted a generation, the other denied; asking again changes nothing`, async (t) => {
    const [{ witness: a }, { witness: b }] = [open(t, await choice(t)), open(t, await choice(t))];
    const vm = randomUUID();
    assert.equal(await a.latest(vm, deadline()), undefined);
    assert.deepEqual(await a.ask(vm, 7, "host-a", deadline()), granted(8));
    assert.deepEqual(await b.ask(vm, 7, "host-b", deadline()), denied(8));
    assert.deepEqual(await a.ask(vm, 7, "host-a", deadline()), granted(8));
    assert.deepEqual(untimed(await b.latest(vm, deadline())), { generation: 8, host: "host-a" });
    // Both hosts may have written the VM's UUID as they like.
    assert.deepEqual(await b.ask(vm.toUpperCase(), 7, "host-b", deadline()), denied(8));
    assert.equal(await b.latest(randomUUID(), deadline()), undefined, "another VM has claims of its own");
  });

  test(`I3: ${what}: who asks with an old generation is denied with the newest, and writes nothing`, async (t) => {
    const { witness } = open(t, await choice(t));
    const vm = randomUUID();
    // Nobody needs a claim for a generation that has not been disputed: 10 is behind 9 also as text.
    for (const generation of [3, 8, 9])
      assert.deepEqual(await witness.ask(vm, generation, "host-a", deadline()), granted(generation + 1));
    assert.deepEqual(await witness.ask(vm, 5, "host-b", deadline()), denied(10));
    assert.deepEqual(await witness.ask(vm, 3, "host-a", deadline()), denied(10), "although it won that one");
    assert.deepEqual(untimed(await witness.latest(vm, deadline())), { generation: 10, host: "host-a" });
    assert.deepEqual(await witness.ask(vm, 10, "host-b", deadline()), granted(11));
  });

  test(`${what}: who gives up gets no word, and neither does who asks one that is closed`, async (t) => {
    const { witness } = open(t, await choice(t));
    const vm = randomUUID();
    await assert.rejects(witness.ask(vm, 1, "host-a", AbortSignal.abort(new Error("given up"))), /given up/);
    const asked = witness.latest(vm);
    witness.close();
    await assert.rejects(asked, /was closed/);
    await assert.rejects(witness.ask(vm, 1, "host-a"), /was closed/);
    await turn();
  });
}
