import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  FrameStream,
  FrameStreamError,
  framesOf,
  HeldOutput,
  LONGEST_FRAME_BYTES,
} from "../../src/net/held-output.ts";

/** A frame as QEMU's redirector sends it. */
function frame(length: number, fill: number): Buffer {
  const bytes = Buffer.alloc(4 + length, fill);
  bytes.writeUInt32BE(length);
  return bytes;
}

const pieces = (stream: FrameStream, chunks: readonly Uint8Array[]) => {
  const out: Buffer[] = [];
  let frames = 0;
  for (const chunk of chunks) {
    const pushed = stream.push(chunk);
    out.push(Buffer.from(pushed.whole));
    frames += pushed.frames;
  }
  return { out, frames };
};

test("cut at every byte, a stream of frames comes out whole: no piece ends inside a frame, none is lost", () => {
  const frames = [frame(1, 1), frame(60, 2), frame(64, 3), frame(300, 4)];
  const bytes = Buffer.concat(frames);
  const ends = new Set(frames.map((_, count) => Buffer.concat(frames.slice(0, count)).length)).add(
    bytes.length,
  );
  for (let at = 0; at <= bytes.length; at++) {
    const { out, frames: count } = pieces(new FrameStream(), [bytes.subarray(0, at), bytes.subarray(at)]);
    assert.ok(ends.has(out[0]!.length), `cut at ${at}: a piece of ${out[0]!.length} bytes`);
    assert.deepEqual(Buffer.concat(out), bytes, `cut at ${at}`);
    assert.equal(count, frames.length);
  }
  const single = pieces(
    new FrameStream(),
    Array.from(bytes, (_, at) => bytes.subarray(at, at + 1)),
  );
  assert.deepEqual(Buffer.concat(single.out), bytes);
  assert.equal(single.frames, frames.length);
});

test("I6: a length that no frame can have is refused when its four bytes are there, before the frame is waited for", () => {
  for (const length of [0, LONGEST_FRAME_BYTES + 1, 0xffffffff]) {
    const word = Buffer.alloc(4);
    word.writeUInt32BE(length);
    assert.throws(() => new FrameStream().push(word), FrameStreamError);
    // Behind a good frame as well, and when the word itself is cut.
    const stream = new FrameStream();
    stream.push(Buffer.concat([frame(10, 1), word.subarray(0, 3)]));
    assert.throws(() => stream.push(word.subarray(3)), FrameStreamError);
  }
  const longest = frame(LONGEST_FRAME_BYTES, 7);
  assert.equal(new FrameStream().push(longest).frames, 1);
});

test("before anything is held, frames pass at once; from hold on they wait for their epoch", () => {
  const held = new HeldOutput(1000, Number.POSITIVE_INFINITY);
  const [a, b, c] = [frame(10, 1), frame(10, 2), frame(10, 3)];
  assert.equal(held.take(0, a, 1), a);
  held.hold(0);
  assert.equal(held.take(0, a, 1), a, "what epoch 0 sent may go: the backup cannot take over yet");
  assert.equal(held.take(1, b, 1), undefined);
  assert.equal(held.take(2, c, 1), undefined);
  assert.equal(held.heldBytes, b.length + c.length);
  assert.deepEqual(held.release(0), []);
  assert.deepEqual(held.release(1), [b]);
  assert.equal(held.heldBytes, c.length);
  assert.equal(held.take(1, a, 1), undefined, "it may not overtake what waits");
  assert.deepEqual(held.release(2), [c, a]);
  assert.equal(held.heldBytes, 0);
  assert.equal(held.take(2, b, 1), b);
});

test("a piece without a whole frame is nothing", () => {
  const held = new HeldOutput(1000, 0);
  assert.equal(held.take(5, new Uint8Array(0), 0), undefined);
  assert.deepEqual(held.release(5), []);
});

test("I6: beyond the limit frames are dropped and counted, those that wait stay, and there is room again after a release", () => {
  const held = new HeldOutput(100, 0);
  const [first, big, second] = [frame(56, 1), frame(60, 2), frame(36, 3)];
  held.take(1, first, 1);
  held.take(1, big, 3);
  assert.deepEqual([held.heldBytes, held.droppedFrames], [60, 3]);
  held.take(2, second, 1);
  assert.deepEqual([held.heldBytes, held.droppedFrames], [100, 3]);
  assert.deepEqual(held.release(1), [first]);
  held.take(3, big.subarray(0, 60), 1);
  assert.deepEqual(held.release(9), [second, big.subarray(0, 60)]);
  assert.deepEqual([held.heldBytes, held.droppedFrames], [0, 3]);
});

test("I1: of a VM that is paused at a checkpoint all that waits may go, late tags or not; what comes afterwards waits", () => {
  const held = new HeldOutput(1000, 0);
  const [first, late, next] = [frame(10, 1), frame(10, 2), frame(10, 3)];
  held.take(4, first, 1);
  // Sent in epoch 4, and read when the next one had been cut.
  held.take(5, late, 1);
  assert.deepEqual(held.letGo(4), [first, late]);
  assert.equal(held.heldBytes, 0);
  assert.equal(held.take(5, next, 1), undefined);
  assert.deepEqual(held.release(4), []);
  assert.deepEqual(held.release(5), [next]);
});

test("a piece is cut into its frames", () => {
  const piece = Buffer.concat([frame(5, 1), frame(1, 2), frame(7, 3)]);
  assert.deepEqual(
    [...framesOf(piece)].map((one) => [one.length, one[0]]),
    [
      [5, 1],
      [1, 2],
      [7, 3],
    ],
  );
});

test("an older release never takes back a newer one", () => {
  const held = new HeldOutput(1000, 0);
  const bytes = frame(10, 1);
  held.release(7);
  held.release(3);
  assert.equal(held.take(7, bytes, 1), bytes);
});

test("I1: whatever comes in which order: nothing leaves ahead of its release, in another order, twice, or not at all", () => {
  const action = fc.oneof(
    { weight: 4, arbitrary: fc.record({ take: fc.integer({ min: 0, max: 40 }) }) },
    { weight: 2, arbitrary: fc.constant("next epoch" as const) },
    { weight: 2, arbitrary: fc.constant("release" as const) },
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 120, size: "max" }), (actions) => {
      const held = new HeldOutput(400, 0);
      let epoch = 1;
      let released = 0;
      let number = 0;
      const taken: { epoch: number; number: number }[] = [];
      const left: number[] = [];
      const leave = (bytes: Uint8Array) => {
        const one = bytes[4]! * 256 + bytes[5]!;
        assert.ok(taken.find((t) => t.number === one)!.epoch <= released, "ahead of its release");
        left.push(one);
      };
      for (const one of actions) {
        if (one === "next epoch") epoch++;
        else if (one === "release") {
          released = Math.min(released + 1, epoch - 1);
          for (const bytes of held.release(released)) leave(bytes);
        } else {
          const bytes = frame(2 + one.take, 0);
          bytes.writeUInt16BE(number, 4);
          const droppedBefore = held.droppedFrames;
          taken.push({ epoch, number });
          const free = held.take(epoch, bytes, 1);
          if (free !== undefined) leave(free);
          if (held.droppedFrames > droppedBefore) taken.pop();
          number++;
        }
        assert.ok(held.heldBytes <= 400, "the limit");
      }
      released = epoch;
      for (const bytes of held.release(epoch)) leave(bytes);
      assert.deepEqual(
        left,
        taken.map((t) => t.number),
      );
      assert.equal(held.heldBytes, 0);
    }),
  );
});
