// Random faults of the paths of one session, from a seed: whatever happens to them one after the other,
// nothing is lost, doubled, mixed up or kept without a limit, and the session does not end.

import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_PAGES_PER_MESSAGE, type MessageOf } from "../../src/codec/replication.ts";
import { CheckpointDigest, CheckpointEncoder } from "../../src/codec/replication-checkpoint.ts";
import { encodeAck, encodeLayout } from "../../src/codec/replication-encode.ts";
import { PageFrameBuffers } from "../../src/codec/replication-pages.ts";
import type { FaultProxy } from "../../src/lab/fault-proxy.ts";
import type { Session } from "../../src/link/session.ts";
import { allUp, type Pair, pair } from "./link-paths-samples.ts";
import { IDS, LAYOUT, pageList } from "./replication-samples.ts";

const PATHS = 3;
const CHECKPOINTS = 150;
/** Checkpoints that are not acknowledged, at most; each has a MiB and a half of pages. */
const IN_FLIGHT = 8;
const CHECKPOINT_PAGES = 384;

/** Small, and the same for the same seed. */
function dice(seed: number): (sides: number) => number {
  let x = seed;
  return (sides) => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return Math.floor((x / 2 ** 32) * sides);
  };
}

/** Faults of a path; each gives the way to mend it. */
const faults: readonly ((proxy: FaultProxy) => () => void)[] = [
  (proxy) => {
    proxy.pause();
    return () => proxy.resume();
  },
  (proxy) => {
    proxy.pause("up");
    return () => proxy.resume("up");
  },
  (proxy) => {
    proxy.pause("down");
    return () => proxy.resume("down");
  },
  (proxy) => {
    proxy.cut();
    return () => {};
  },
  (proxy) => {
    proxy.halfOpen("client");
    return () => {};
  },
  (proxy) => {
    proxy.halfOpen("target");
    return () => {};
  },
  (proxy) => {
    proxy.set({ bytesPerSecond: 20_000_000 });
    return () => proxy.set({ bytesPerSecond: Number.POSITIVE_INFINITY });
  },
  (proxy) => {
    proxy.set({ delayMs: 30 });
    return () => proxy.set({ delayMs: 0 });
  },
];

/**
 * Checkpoint after checkpoint, as a primary sends them: out of buffers that are used again as soon as they
 * are free.
 */
async function sendCheckpoints(
  a: Session,
  acked: (epoch: number) => Promise<unknown>,
  kept: number[],
): Promise<void> {
  const buffers = new PageFrameBuffers();
  a.send(encodeLayout(IDS, LAYOUT));
  for (let epoch = 0; epoch < CHECKPOINTS; epoch++) {
    if (epoch >= IN_FLIGHT) await acked(epoch - IN_FLIGHT);
    const encoder = new CheckpointEncoder(IDS, epoch, buffers);
    const pages = Array.from({ length: CHECKPOINT_PAGES }, (_, page) => ({ raw: true, block: 0, page }));
    for (const frame of encoder.pages(pageList(pages, epoch + 1)))
      a.send(frame, { free: () => buffers.giveBack(frame) });
    a.send(encoder.end());
    kept.push(a.keptBytes);
  }
  await acked(CHECKPOINTS - 1);
}

/** One fault after the other, on one or two of the paths while another one is well. */
async function strike(
  { proxies, a, b }: Pair,
  roll: (sides: number) => number,
  over: () => boolean,
): Promise<number> {
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  let strikes = 0;
  while (!over()) {
    const spared = roll(PATHS);
    const isUp = (session: Session) => session.paths[spared]!.up;
    if (!isUp(a) || !isUp(b)) {
      await pause(5);
      continue;
    }
    const mends: (() => void)[] = [];
    for (let path = 0; path < PATHS; path++)
      if (path !== spared && roll(3) > 0) mends.push(faults[roll(faults.length)]!(proxies[path]!));
    strikes += mends.length;
    await pause(roll(120));
    for (const mend of mends) mend();
    await pause(roll(60));
  }
  return strikes;
}

for (const seed of [1, 2, 3])
  test(`I2, I4, I6: random faults of three paths, seed ${seed}`, { timeout: 180_000 }, async (t) => {
    const both = await pair(t, PATHS, { detectionMs: 20_000 });
    const { a, b, atA, atB } = both;
    // What the backup hears is checked as it comes, and not kept.
    let digest = new CheckpointDigest(0);
    const acks: number[] = [];
    let messages = 0;
    atB.filter = (message) => {
      if (message.type === "pages") {
        assert.ok(message.pages.count <= MAX_PAGES_PER_MESSAGE);
        digest.addMessage(message);
      } else if (message.type === "checkpoint-end") {
        digest.check(message as MessageOf<"checkpoint-end">);
        b.send(encodeAck(IDS, message.epoch));
        digest = new CheckpointDigest(message.epoch + 1);
      } else if (message.type !== "layout") {
        return;
      }
      messages++;
    };
    atA.filter = (message) => {
      if (message.type === "ack") acks.push(message.epoch);
    };
    const kept: number[] = [];
    const roll = dice(seed);
    let over = false;
    // A test whose time is up ends here, too: its file would not end, and no other one would begin.
    const striking = strike(both, roll, () => over || t.signal.aborted);
    try {
      await sendCheckpoints(a, (epoch) => atA.until(() => acks.length > epoch || undefined), kept);
    } finally {
      over = true;
    }
    const strikes = await striking;
    await allUp(both);
    assert.deepEqual([a.closed, b.closed], [undefined, undefined]);
    assert.deepEqual(acks, Array.from(acks.keys()));
    assert.equal(acks.length, CHECKPOINTS);
    assert.equal(messages, 1 + CHECKPOINTS * (Math.ceil(CHECKPOINT_PAGES / MAX_PAGES_PER_MESSAGE) + 1));
    await atA.until(() => a.keptBytes === 0 || undefined);
    await atB.until(() => b.keptBytes === 0 || undefined);
    // What is in flight, what was acknowledged since the last heartbeat, and what waited on a path when
    // another one took over.
    const most = 3 * IN_FLIGHT * (CHECKPOINT_PAGES * 4104 + 4096);
    assert.ok(Math.max(...kept) <= most, `${Math.max(...kept)} bytes were kept`);
    const broken = [...atA.paths, ...atB.paths].filter(({ reason }) => /replication link:/.test(reason));
    assert.deepEqual(broken, [], "no path ever carried bytes that were no message");
    t.diagnostic(
      `${strikes} strikes, ${atA.paths.length + atB.paths.length} tidings of paths, at most ${Math.max(...kept)} bytes kept`,
    );
  });
