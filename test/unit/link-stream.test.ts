// The numbers of a session's messages, over paths that are made up here: whatever is lost, late or said
// twice, each message is delivered once, in order, and nothing is kept that the peer has confirmed.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ProtocolError } from "../../src/codec/replication.ts";
import { encodeAck } from "../../src/codec/replication-encode.ts";
import { type Counted, Incoming, type Kept, Outgoing } from "../../src/link/stream.ts";
import { IDS } from "./replication-samples.ts";

/** A message or a CARRY on a path, in order: TCP loses the tail of it, never the middle. */
type OnTheWay = { readonly carry: number } | { readonly epoch: number; readonly taken: () => void };

type Step =
  | { readonly kind: "send" }
  | { readonly kind: "take" | "deliver"; readonly path: number; readonly count: number }
  | { readonly kind: "confirm" | "hear" | "break" | "switch"; readonly path: number };

const PATHS = 3;
const path = fc.integer({ min: 0, max: PATHS - 1 });
const count = fc.integer({ min: 1, max: 9 });
const step = (weight: number, kind: Step["kind"], more: object) => ({
  weight,
  arbitrary: fc.record({ kind: fc.constant(kind), ...more }) as fc.Arbitrary<Step>,
});
const steps = fc.array(
  fc.oneof(
    step(6, "send", {}),
    step(6, "take", { path, count }),
    step(6, "deliver", { path, count }),
    step(3, "confirm", { path }),
    step(3, "hear", { path }),
    step(2, "break", { path }),
    step(2, "switch", { path }),
  ),
  { maxLength: 150, size: "max" },
);

/**
 * One direction of a session: the sender's own queue on each path, what the kernel has taken, and what the
 * receiver makes of it.
 */
class World {
  readonly outgoing = new Outgoing();
  readonly incoming = new Incoming();
  readonly delivered: number[] = [];
  readonly left: number[] = [];
  readonly freed = new Set<number>();
  sent = 0;
  private readonly queues: OnTheWay[][] = Array.from({ length: PATHS }, () => []);
  private readonly wires: OnTheWay[][] = Array.from({ length: PATHS }, () => []);
  /** Receipts under way: what the peer had when it said so. */
  private readonly receipts: number[][] = Array.from({ length: PATHS }, () => []);
  private readonly counted: Counted[] = Array.from({ length: PATHS }, () => ({ expected: undefined }));
  private data = 0;

  constructor() {
    this.counted[0]!.expected = 0;
  }

  do(step: Step): void {
    switch (step.kind) {
      case "send":
        this.send();
        return;
      case "take":
        for (let i = 0; i < step.count; i++) this.take(step.path);
        return;
      case "deliver":
        for (let i = 0; i < step.count; i++) this.deliver(step.path);
        return;
      case "confirm":
        this.receipts[step.path]!.push(this.incoming.received);
        return;
      case "hear": {
        const received = this.receipts[step.path]!.shift();
        if (received !== undefined) this.outgoing.confirm(received);
        return;
      }
      case "break":
        this.queues[step.path] = [];
        this.wires[step.path] = [];
        this.receipts[step.path] = [];
        this.counted[step.path]!.expected = undefined;
        if (step.path === this.data) this.carryOn((step.path + 1) % PATHS);
        return;
      case "switch":
        if (this.queues[this.data]!.length === 0) this.carryOn(step.path);
        return;
    }
  }

  /**
   * Messages that the kernel has not taken: whoever freed one has changed bytes that are still to be sent.
   */
  get waiting(): number[] {
    return this.queues.flat().flatMap((one) => ("epoch" in one ? one.epoch : []));
  }

  private send(): void {
    const epoch = this.sent++;
    const kept = this.outgoing.keep(encodeAck(IDS, epoch), {
      left: () => this.left.push(epoch),
      free: () => {
        assert.ok(!this.freed.has(epoch));
        this.freed.add(epoch);
      },
    });
    this.write(kept, epoch);
  }

  private write(kept: Kept, epoch: number): void {
    this.queues[this.data]!.push({ epoch, taken: this.outgoing.write(kept) });
  }

  private carryOn(path: number): void {
    this.data = path;
    this.outgoing.unwrite();
    const { first, kept } = this.outgoing;
    this.queues[path]!.push({ carry: first });
    for (const [index, one] of kept.entries()) this.write(one, first + index);
  }

  private take(path: number): void {
    const next = this.queues[path]!.shift();
    if (next === undefined) return;
    this.wires[path]!.push(next);
    if ("taken" in next) next.taken();
  }

  private deliver(path: number): void {
    const next = this.wires[path]!.shift();
    if (next === undefined) return;
    if ("carry" in next) this.incoming.carry(this.counted[path]!, next.carry);
    else if (this.incoming.isNew(this.counted[path]!, "ack")) this.delivered.push(next.epoch);
  }

  /** Nothing fails any more. */
  settle(): void {
    for (let path = 0; path < PATHS; path++) {
      while (this.queues[path]!.length > 0) this.take(path);
      while (this.wires[path]!.length > 0) this.deliver(path);
    }
    this.outgoing.confirm(this.incoming.received);
  }
}

test("I4, I6: over any paths that break, stall and come back, each message is delivered once, in order, and free once it is confirmed and has left", () => {
  fc.assert(
    fc.property(steps, (all) => {
      const world = new World();
      for (const step of all) {
        world.do(step);
        const { first, kept } = world.outgoing;
        assert.deepEqual(world.delivered, Array.from(world.delivered.keys()));
        assert.ok(first <= world.delivered.length, "nothing is forgotten that did not arrive");
        assert.equal(first + kept.length, world.sent);
        assert.equal(world.outgoing.keptBytes, 48 * (world.sent - world.freed.size));
        for (const epoch of world.freed) assert.ok(epoch < first);
        for (const epoch of world.waiting) assert.ok(!world.freed.has(epoch));
      }
      world.settle();
      const everything = Array.from({ length: world.sent }, (_, i) => i);
      assert.deepEqual(world.delivered, everything);
      assert.equal(world.freed.size, world.sent);
      assert.deepEqual(
        [...world.left].sort((a, b) => a - b),
        everything,
      );
      assert.equal(world.outgoing.keptBytes, 0);
    }),
    { numRuns: 2000 },
  );
});

test("a peer that confirms what was never sent, leaves messages out, or does not say where it begins, breaks the protocol", () => {
  const outgoing = new Outgoing();
  outgoing.keep(encodeAck(IDS, 0), {});
  assert.throws(() => outgoing.confirm(2), /received messages is 2, expected at most the 1 sent/);
  const incoming = new Incoming();
  const path: Counted = { expected: undefined };
  assert.throws(() => incoming.isNew(path, "ack"), ProtocolError);
  assert.throws(() => incoming.carry(path, 1), /carry first is 1, expected at most 0/);
  incoming.carry(path, 0);
  assert.equal(incoming.isNew(path, "ack"), true);
});

test("what the peer confirmed before it left for the kernel counts as left, once", () => {
  const outgoing = new Outgoing();
  let left = 0;
  const taken = outgoing.write(outgoing.keep(encodeAck(IDS, 0), { left: () => left++ }));
  outgoing.confirm(1);
  taken();
  assert.equal(left, 1);
});
