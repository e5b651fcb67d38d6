/** The guest's disk writes on their way from the ring to the backup, over a link that can be stopped. */
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import {
  DISK_WRITE,
  DISK_ZERO,
  type DiskEntry,
  HASH_BYTES,
  MAX_DISK_DATA_BYTES,
  MAX_DISK_ENTRIES,
  type MessageOf,
  type ReplicationMessage,
} from "../../src/codec/replication.ts";
import { DiskDigest } from "../../src/codec/replication-checkpoint.ts";
import { encodeHello } from "../../src/codec/replication-encode.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import { WriteRing } from "../../src/disk/write-ring.ts";
import { DiskShipping } from "../../src/guardian/disks/disk-shipping.ts";
import { Connection } from "../../src/link/connection.ts";
import { HELLO, IDS, wire } from "./replication-samples.ts";

const KIB = 1024;
const MIB = 1 << 20;
const DEADLINE = { timeout: 20_000 };
const GONE = /the backup is gone|closed|stopped the link/;

/** The far end: hears whole messages, unless the link is stopped. */
class FarEnd {
  readonly messages: ReplicationMessage[] = [];
  bytes = 0;
  readonly socket: Duplex;
  private stopped = false;
  private waiting: (() => void)[] = [];
  private readonly parser = new ReplicationParser({
    receiver: "backup",
    onMessage: (message) => this.messages.push(message),
  });

  constructor() {
    this.parser.push(wire([{ frame: encodeHello(IDS, HELLO) }]));
    this.messages.length = 0;
    this.socket = new Duplex({
      read: () => {},
      write: (chunk: Buffer, _encoding, done) => {
        this.waiting.push(() => {
          this.bytes += chunk.length;
          this.parser.push(chunk);
          done();
        });
        this.flow();
      },
    });
  }

  get disk(): MessageOf<"disk">[] {
    return this.messages.filter((message) => message.type === "disk");
  }

  stop(): void {
    this.stopped = true;
  }

  go(): void {
    this.stopped = false;
    this.flow();
  }

  private flow(): void {
    while (!this.stopped && this.waiting.length > 0) this.waiting.shift()!();
  }
}

function setUp(t: TestContext, ringBytes = 4 * MIB) {
  const far = new FarEnd();
  const connection = new Connection(far.socket, {
    role: "primary",
    vmId: IDS.vmId,
    peer: "backup 10.0.0.2:7000",
    handlers: { onMessage: () => {}, onClosed: () => {} },
  });
  t.after(() => connection.destroy("the test is over"));
  const ring = WriteRing.ofSize(ringBytes);
  const taken: DiskEntry[] = [];
  const shipping = new DiskShipping(connection, IDS, ring, (entry) => {
    assert.equal(shipping.bytesOnWire, bytesOnWireBefore(), "told too late");
    taken.push({ ...entry });
  });
  /** All that was shipped before the message that is being made. */
  let before = 0;
  const bytesOnWireBefore = () => {
    before = Math.max(before, shipping.bytesOnWire);
    return before;
  };
  return { connection, far, ring, shipping, taken };
}

/** Waits, turn by turn, for what the others are about to do. */
async function until(what: () => boolean): Promise<void> {
  for (let turns = 0; turns < 100_000; turns++) {
    if (what()) return;
    await new Promise((turn) => setImmediate(turn));
  }
  assert.fail(`still not so: ${what}`);
}

/** Turns in which all that can happen without help from outside does. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 50; turns++) await new Promise((turn) => setImmediate(turn));
}

/** The guest writes so much from `offset` on, as far as the ring has room. Returns how much it had. */
function write(ring: WriteRing, shipping: DiskShipping, offset: number, length: number, epoch: number) {
  let done = 0;
  while (done < length) {
    const piece = Buffer.alloc(Math.min(64 * KIB, length - done), 1 + (((offset + done) >> 16) % 255));
    const taken = ring.write(0, offset + done, piece, epoch);
    done += taken;
    if (taken < piece.length) break;
  }
  if (ring.publish()) shipping.pump();
  return done;
}

const plain = ({ data, ...entry }: DiskEntry) =>
  data === undefined ? entry : { ...entry, data: Buffer.from(data).toString("base64") };

test(
  "everything goes out once, in order, each message of one epoch, with the digest of each epoch",
  DEADLINE,
  async (t) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            sectors: fc.oneof(fc.nat({ max: 4 }), fc.nat({ max: 600 })),
            next: fc.integer({ min: 0, max: 9 }),
            publish: fc.boolean(),
          }),
          { minLength: 1, maxLength: 30 },
        ),
        async (writes) => {
          const { far, ring, shipping, taken } = setUp(t, MIB);
          // From here on it is told when there is something.
          shipping.pump();
          const put: (DiskEntry & { epoch: number })[] = [];
          let epoch = 1;
          for (const [n, { sectors, next, publish }] of writes.entries()) {
            if (next === 0) epoch++;
            // So far apart that no two become one.
            const offset = n * MIB;
            if (sectors === 0) {
              assert.ok(ring.put(0, DISK_ZERO, offset, MIB, epoch));
              put.push({ disk: 0, kind: DISK_ZERO, offset, length: MIB, epoch });
            }
            const data = Buffer.alloc(sectors * 512, n + 1);
            for (let done = 0; done < data.length; ) {
              done += ring.write(0, offset + done, data.subarray(done), epoch);
              if (done === data.length) break;
              if (ring.publish()) shipping.pump();
              await new Promise((turn) => setImmediate(turn));
            }
            if (data.length > 0)
              put.push({ disk: 0, kind: DISK_WRITE, offset, length: data.length, data, epoch });
            if (publish && ring.publish()) shipping.pump();
          }
          if (ring.publish()) shipping.pump();
          await new Promise<void>((then) => shipping.whenSent(then));
          await until(() => far.bytes === shipping.bytesOnWire);
          assert.deepEqual(
            joined(far.disk.flatMap(({ entries, epoch }) => entries.map((one) => ({ ...one, epoch })))),
            put.map(plain),
          );
          assert.equal(taken.length, far.disk.flatMap(({ entries }) => entries).length);
          for (const { entries } of far.disk) {
            assert.ok(entries.length <= MAX_DISK_ENTRIES);
            assert.ok(entries.reduce((sum, { data }) => sum + (data?.length ?? 0), 0) <= MAX_DISK_DATA_BYTES);
          }
          for (let one = 0; one <= epoch + 1; one++) {
            const digest = new DiskDigest();
            for (const message of far.disk)
              if (message.epoch === one) digest.add(message.payloadCrc, message.entries.length);
            assert.deepEqual(shipping.summary(one), digest.summary, `epoch ${one}`);
          }
        },
      ),
      { numRuns: 25 },
    );
  },
);

/** Entries as they were written: the ring cuts long ones, and where it begins anew. */
function joined(entries: readonly (DiskEntry & { epoch: number })[]): object[] {
  const all: (DiskEntry & { epoch: number })[] = [];
  for (const entry of entries) {
    const last = all.at(-1);
    if (last?.data !== undefined && entry.data !== undefined && last.offset + last.length === entry.offset)
      all[all.length - 1] = {
        ...last,
        length: last.length + entry.length,
        data: Buffer.concat([last.data, entry.data]),
      };
    else all.push(entry);
  }
  return all.map(plain);
}

test(
  "a sync hears of a write before it is sent, and what the sync sends then comes after it",
  DEADLINE,
  async (t) => {
    const far = new FarEnd();
    const connection = new Connection(far.socket, {
      role: "primary",
      vmId: IDS.vmId,
      peer: "backup",
      handlers: { onMessage: () => {}, onClosed: () => {} },
    });
    t.after(() => connection.destroy("the test is over"));
    const ring = WriteRing.ofSize(MIB);
    const sentWhenTold: number[] = [];
    const shipping: DiskShipping = new DiskShipping(connection, IDS, ring, () => {
      sentWhenTold.push(shipping.bytesOnWire);
    });
    ring.put(0, DISK_ZERO, 0, 512, 0);
    ring.put(0, DISK_ZERO, 1024, 512, 0);
    ring.publish();
    shipping.pump();
    await settled();
    assert.deepEqual(sentWhenTold, [0, 0], "both before their message");
    assert.ok(shipping.bytesOnWire > 0);
    shipping.send([{ disk: 0, kind: DISK_ZERO, offset: 2048, length: 512 }]);
    await until(() => far.disk.length === 2);
    assert.deepEqual(
      far.disk.flatMap(({ epoch, entries }) => entries.map(({ offset }) => [epoch, offset])),
      [
        [0, 0],
        [0, 1024],
        [0, 2048],
      ],
    );
    const digest = new DiskDigest();
    for (const { payloadCrc, entries } of far.disk) digest.add(payloadCrc, entries.length);
    assert.deepEqual(shipping.summary(0), digest.summary);
    assert.deepEqual(shipping.summary(0), new DiskDigest().summary, "told once");
  },
);

test(
  "I6: while the link is full no more is taken out of the ring than it may have; then the rest follows",
  DEADLINE,
  async (t) => {
    const { connection, far, ring, shipping } = setUp(t, 8 * MIB);
    shipping.pump();
    far.stop();
    assert.equal(write(ring, shipping, 0, 8 * MIB, 1), 8 * MIB);
    await settled();
    const most = 2 * MIB + MAX_DISK_DATA_BYTES + 64 * KIB;
    assert.ok(
      connection.bufferedBytes > 0 && connection.bufferedBytes <= most,
      `${connection.bufferedBytes}`,
    );
    assert.ok(ring.roomBytes <= most, "what waits in the ring is not free");
    let sent = false;
    shipping.whenSent(() => {
      sent = true;
    });
    await settled();
    assert.equal(sent, false);
    far.go();
    await until(() => sent);
    assert.equal(ring.roomBytes, ring.capacityBytes);
    await until(() => far.bytes === shipping.bytesOnWire);
    const data = far.disk.flatMap(({ entries }) => entries.map((one) => one.data!.length));
    assert.equal(
      data.reduce((a, b) => a + b),
      8 * MIB,
    );
  },
);

test(
  "I2: the end of an epoch waits for all that was in the ring, and for nothing that came later",
  DEADLINE,
  async (t) => {
    const { far, ring, shipping } = setUp(t, 8 * MIB);
    let now = 0;
    shipping.whenSent(() => now++);
    assert.equal(now, 1, "nothing to wait for");
    shipping.pump();
    far.stop();
    write(ring, shipping, 0, 4 * MIB, 1);
    await settled();
    const order: string[] = [];
    shipping.whenSent(() => order.push(`first, with ${(shipping.summary(1).entries * 256) / KIB} MiB`));
    write(ring, shipping, 16 * MIB, 2 * MIB, 2);
    shipping.whenSent(() => order.push("second"));
    await settled();
    assert.deepEqual(order, []);
    far.go();
    await until(() => order.length === 2);
    assert.deepEqual(order, ["first, with 4 MiB", "second"]);
  },
);

test("what nobody rang for goes out with the end of its epoch", DEADLINE, async (t) => {
  const { far, ring, shipping } = setUp(t);
  ring.put(0, DISK_ZERO, 0, 512, 1);
  assert.equal(ring.publish(), false, "nobody listens yet");
  await new Promise<void>((then) => shipping.whenSent(then));
  await until(() => far.disk.length === 1);
  await until(() => ring.listen());
  ring.put(0, DISK_ZERO, 0, 512, 2);
  assert.equal(ring.publish(), true, "it listens from then on");
});

test(
  "I6: of epoch 0 the backup has no more than a window that is not in its images; later epochs have none",
  DEADLINE,
  async (t) => {
    const { far, ring, shipping } = setUp(t, 4 * MIB);
    shipping.pump();
    const WINDOW = 16 * MIB;
    let written = 0;
    for (let quiet = 0; quiet < 50; quiet++) {
      const more = write(ring, shipping, written, 64 * MIB - written, 0);
      if (more > 0) quiet = 0;
      written += more;
      await settled();
    }
    const held = () => far.disk.reduce((sum, { payloadBytes }) => sum + payloadBytes, 0);
    assert.ok(held() > WINDOW && held() <= WINDOW + MAX_DISK_DATA_BYTES + 64 * KIB, `${held()} bytes`);
    assert.ok(written <= held() + ring.capacityBytes, "the guest waits");
    let mayRead = false;
    const room = shipping.room().then(() => {
      mayRead = true;
    });
    await settled();
    assert.equal(mayRead, false, "nor may a sync send more");
    const before = held();
    shipping.applied(8 * MIB);
    await room;
    await until(() => held() > before + 2 * MIB);
    // A late word changes nothing.
    shipping.applied(4 * MIB);
    shipping.applied(held());
    await new Promise<void>((then) => shipping.whenSent(then));
    for (let epoch = 1, sent = 0; sent < 20 * MIB; epoch++) {
      sent += write(ring, shipping, sent, 2 * MIB, epoch);
      await new Promise<void>((then) => shipping.whenSent(then));
    }
  },
);

for (const order of ["before", "after"] as const)
  test(`I5: nobody waits once the backup is given up ${order} the link has ended`, DEADLINE, async (t) => {
    const { connection, far, ring, shipping, taken } = setUp(t, 4 * MIB);
    far.stop();
    shipping.pump();
    write(ring, shipping, 0, 4 * MIB, 1);
    await settled();
    const hashes = assert.rejects(shipping.hashes(0, 4096, 0, 1), GONE);
    const room = assert.rejects(shipping.room(), GONE);
    let sent = false;
    shipping.whenSent(() => {
      sent = true;
    });
    if (order === "before") shipping.abandon();
    connection.destroy("the backup has stopped the link");
    if (order === "after") shipping.abandon();
    await Promise.all([hashes, room]);
    await until(() => sent);
    const onWire = shipping.bytesOnWire;
    // Far more than the ring holds, with nobody at the other end; epoch 0 has no window any more either.
    for (let written = 0; written < 32 * MIB; ) {
      const more = write(ring, shipping, written, 4 * MIB, written > 16 * MIB ? 0 : 1);
      written += more;
      if (more === 0) await until(() => ring.roomBytes > 0);
    }
    await until(() => ring.roomBytes === ring.capacityBytes);
    assert.equal(ring.abandoned, true);
    assert.equal(shipping.bytesOnWire, onWire, "nothing is made to be sent");
    assert.ok(taken.length >= 36 * 4, "a sync hears of what is dropped, too");
    await assert.rejects(shipping.hashes(0, 4096, 0, 1), GONE);
    await assert.rejects(shipping.room(), GONE);
  });

test(
  "I5: a guest that waits for the backup's disks goes on when the backup is given up",
  DEADLINE,
  async (t) => {
    const { connection, ring, shipping } = setUp(t, 4 * MIB);
    shipping.pump();
    let written = 0;
    while (written < 18 * MIB) {
      written += write(ring, shipping, written, 18 * MIB - written, 0);
      await settled();
    }
    const room = assert.rejects(shipping.room(), GONE);
    await settled();
    assert.ok(ring.roomBytes < ring.capacityBytes);
    connection.destroy("the backup has stopped the link");
    shipping.abandon();
    await room;
    await until(() => ring.roomBytes === ring.capacityBytes);
  },
);

test(
  "answers find their questions, in whatever order they come; others are not heard",
  DEADLINE,
  async (t) => {
    const { far, shipping } = setUp(t);
    const asked = [
      shipping.hashes(0, 4096, 0, 2),
      shipping.hashes(0, 4096, 8192, 2),
      shipping.hashes(3, 4096, 0, 1),
      shipping.hashes(0, 4096, 0, 2),
    ];
    await until(() => far.messages.length === 4);
    const ranges = far.messages.map((message) => (message as MessageOf<"hash-ask">).range);
    assert.deepEqual(ranges[1], { disk: 0, blockBytes: 4096, offset: 8192, count: 2 });
    const answer = (range: (typeof ranges)[number], fill: number) =>
      shipping.answered({
        type: "hashes",
        range,
        hashes: new Uint8Array(range.count * HASH_BYTES).fill(fill),
      } as MessageOf<"hashes">);
    answer({ ...ranges[0]!, offset: 4096 }, 9);
    answer({ ...ranges[0]!, count: 1 }, 9);
    answer(ranges[2]!, 3);
    answer(ranges[1]!, 2);
    answer(ranges[0]!, 1);
    answer(ranges[0]!, 4);
    answer(ranges[0]!, 9);
    const got = await Promise.all(asked);
    assert.deepEqual(
      got.map((hashes) => [hashes.length, hashes[0]]),
      [
        [32, 1],
        [32, 2],
        [16, 3],
        [32, 4],
      ],
    );
  },
);
