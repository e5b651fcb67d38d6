import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { ProtocolError } from "../../src/codec/replication.ts";
import { CheckpointDigest, CheckpointEncoder } from "../../src/codec/replication-checkpoint.ts";
import {
  encodeAck,
  encodeHeartbeat,
  encodeHello,
  encodeLayout,
  type Frame,
} from "../../src/codec/replication-encode.ts";
import { PageFrameBuffers } from "../../src/codec/replication-pages.ts";
import { connection, DEADLINE, Heard, sockets } from "./link-samples.ts";
import { HELLO, IDS, LAYOUT, pageList, pagesOf, wire } from "./replication-samples.ts";

test("I2: a checkpoint crosses whole, with acks and buffers going back and forth", DEADLINE, async (t) => {
  const [one, two] = await sockets(t);
  const atPrimary = new Heard();
  const atBackup = new Heard();
  const primary = connection(one, "primary", atPrimary);
  const backup = connection(two, "backup", atBackup);
  primary.send(encodeHello(IDS, HELLO));
  primary.send(encodeLayout(IDS, LAYOUT));
  const list = pageList(Array.from({ length: 1000 }, (_, page) => ({ raw: page % 7 > 0, block: 0, page })));
  const buffers = new PageFrameBuffers();
  const encoder = new CheckpointEncoder(IDS, 1, buffers);
  let left = 0;
  const sent = (frame: Frame) => () => {
    left++;
    buffers.giveBack(frame);
  };
  for (const frame of encoder.pages(list)) primary.send(frame, sent(frame));
  for (const frame of encoder.deviceState(Buffer.alloc(1.5 * 1024 * 1024, "vm")))
    primary.send(frame, sent(frame));
  const end = encoder.end();
  primary.send(end, sent(end));
  assert.ok(primary.bufferedBytes > 0);

  const received = await atBackup.message("checkpoint-end");
  const digest = new CheckpointDigest(1);
  const pages: string[] = [];
  for (const message of atBackup.messages) {
    if (message.type === "pages" || message.type === "device-state") digest.addMessage(message);
    if (message.type === "pages") pages.push(...pagesOf(message.pages));
  }
  digest.check(received);
  assert.deepEqual(pages, pagesOf(list));
  backup.send(encodeAck(IDS, received.epoch));
  assert.equal((await atPrimary.message("ack")).epoch, 1);
  await primary.whenBelow(0);
  assert.equal(left, 4 + 2 + 1, "every frame's memory is free again");
  assert.equal(primary.bufferedBytes, 0);
});

test(
  "I6: what a peer does not read stays counted here, and the waiters are told when it moves",
  DEADLINE,
  async (t) => {
    const [one, two] = await sockets(t);
    const primary = connection(one, "primary", new Heard());
    two.pause();
    const frames = [
      ...new CheckpointEncoder(IDS, 1, new PageFrameBuffers()).deviceState(new Uint8Array(32 << 20)),
    ];
    const total = frames.reduce((sum, frame) => sum + frame.byteLength, 0);
    for (const frame of frames) primary.send(frame);
    assert.equal(primary.bufferedBytes, total);
    let moved = false;
    const below = primary.whenBelow(1 << 20).then(() => {
      moved = true;
    });
    // A round trip of the event loop in which the kernel takes what it can: less than 31 MiB fit into its
    // buffers.
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(moved, false);
    two.resume();
    await below;
    assert.ok(primary.bufferedBytes <= 1 << 20);
  },
);

test("I6: beyond the bound the connection ends and says so; what waited is told", DEADLINE, async (t) => {
  const [one, two] = await sockets(t);
  two.pause();
  const heard = new Heard();
  const primary = connection(one, "primary", heard, 4 << 20);
  const frames = [
    ...new CheckpointEncoder(IDS, 1, new PageFrameBuffers()).deviceState(new Uint8Array(5 << 20)),
  ];
  for (const frame of frames.slice(0, 3)) primary.send(frame);
  assert.equal(primary.closed, undefined);
  const waiting = primary.whenBelow(0);
  for (const frame of frames.slice(3)) primary.send(frame);
  await assert.rejects(waiting, /wait to be sent and device-state would go beyond 4194304/);
  assert.deepEqual(
    heard.closed.map((reason) => reason.kind),
    ["overrun"],
  );
  await assert.rejects(primary.whenBelow(0), /wait to be sent/);
});

test(
  "a peer that closes between messages has closed; in the middle of one it was cut off",
  DEADLINE,
  async (t) => {
    for (const cutAt of [undefined, 20]) {
      const [one, two] = await sockets(t);
      const heard = new Heard();
      connection(one, "primary", heard);
      two.end(
        wire([{ frame: encodeAck(IDS, 3) }, { frame: encodeAck(IDS, 4) }]).subarray(0, cutAt && 48 + cutAt),
      );
      const reason = await heard.end();
      assert.ok(reason.kind === "peer-closed");
      assert.equal(reason.cut, cutAt !== undefined);
      assert.match(
        reason.message,
        cutAt ? /peer closed the connection in the middle/ : /peer closed the connection$/,
      );
      assert.deepEqual(
        heard.messages.map((message) => message.epoch),
        cutAt ? [3] : [3, 4],
      );
      await once(one, "close");
      assert.equal(heard.closed.length, 1, "told exactly once");
    }
  },
);

test("a reset by the peer is told once, with the kernel's error", DEADLINE, async (t) => {
  const [one, two] = await sockets(t);
  const heard = new Heard();
  connection(one, "primary", heard);
  two.resetAndDestroy();
  const reason = await heard.end();
  assert.ok(reason.kind === "broken");
  assert.match(reason.message, /connection broke: .*ECONNRESET/);
  if (!one.closed) await once(one, "close");
  assert.equal(heard.closed.length, 1);
});

test("garbage ends the connection with the parser's words", DEADLINE, async (t) => {
  const [one, two] = await sockets(t);
  const heard = new Heard();
  connection(one, "primary", heard);
  two.write("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: somebody/1.0\r\n\r\n");
  const reason = await heard.end();
  assert.ok(reason.kind === "protocol");
  assert.equal(reason.cause.code, "bad-magic");
  await once(two, "close");
});

test(
  "I2: a ProtocolError of the handler (a checkpoint that is not whole) ends the connection, too",
  DEADLINE,
  async (t) => {
    const [one, two] = await sockets(t);
    const heard = new Heard();
    connection(one, "primary", heard).handOver({
      onMessage: () => {
        throw new ProtocolError("bad-checkpoint", "ack epoch", 9, "at most 3");
      },
      onClosed: heard.onClosed,
    });
    two.write(wire([{ frame: encodeAck(IDS, 9) }]));
    const reason = await heard.end();
    assert.equal(reason.message, "the primary's peer: replication link: ack epoch is 9, expected at most 3");
  },
);

test(
  "destroy() within a message: nothing after it, onClosed once, send() is dropped",
  DEADLINE,
  async (t) => {
    const [one, two] = await sockets(t);
    const heard = new Heard();
    const primary = connection(one, "primary", heard);
    primary.handOver({
      onMessage: (message) => {
        heard.onMessage(message);
        primary.destroy("enough");
        primary.destroy("again");
      },
      onClosed: heard.onClosed,
    });
    two.write(wire([{ frame: encodeAck(IDS, 1) }, { frame: encodeAck(IDS, 2) }]));
    assert.deepEqual(await heard.end(), { kind: "destroyed", message: "enough" });
    primary.send(encodeHeartbeat(IDS, 1), () => assert.fail("sent on a closed connection"));
    assert.equal(primary.bufferedBytes, 0);
    await once(one, "close");
    assert.equal(heard.messages.length, 1);
    assert.equal(heard.closed.length, 1);
  },
);

test("finish(): the last frame arrives although this side has closed", DEADLINE, async (t) => {
  const [one, two] = await sockets(t);
  const atPrimary = new Heard();
  const atBackup = new Heard();
  connection(one, "primary", atPrimary);
  const backup = connection(two, "backup", atBackup);
  backup.finish(encodeAck(IDS, 77), "done");
  assert.deepEqual(atBackup.closed, [{ kind: "destroyed", message: "done" }]);
  assert.equal((await atPrimary.message("ack")).epoch, 77);
  assert.equal((await atPrimary.end()).kind, "peer-closed");
});

test(
  "I3: finish() reaches a peer that hangs; if it never reads, the connection is dropped all the same",
  DEADLINE,
  async (t) => {
    const [one, two] = await sockets(t);
    one.pause();
    const backup = connection(two, "backup", new Heard());
    backup.finish(encodeAck(IDS, 1), "done", 30);
    await once(two, "close");
    one.resume();
    const [chunk] = (await once(one, "data")) as [Buffer];
    assert.ok(chunk.equals(wire([{ frame: encodeAck(IDS, 1) }])));
  },
);

test("pause(): the peer's bytes wait, resume() brings them", DEADLINE, async (t) => {
  const [one, two] = await sockets(t);
  const heard = new Heard();
  const primary = connection(one, "primary", heard);
  primary.pause();
  assert.equal(primary.paused, true);
  await new Promise<void>((resolve) => two.write(wire([{ frame: encodeAck(IDS, 5) }]), () => resolve()));
  assert.equal(heard.messages.length, 0);
  primary.resume();
  assert.equal((await heard.message("ack")).epoch, 5);
});

test("handOver() to a connection that is over tells the new owner", DEADLINE, async (t) => {
  const [one] = await sockets(t);
  const primary = connection(one, "primary", new Heard());
  primary.destroy("before");
  const heard = new Heard();
  primary.handOver(heard);
  assert.equal(heard.closed.length, 0, "not within the call");
  assert.equal((await heard.end()).message, "before");
});
