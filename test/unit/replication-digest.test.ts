// A digest goes on for as long as a guardian does: many thousand checkpoints, which is when the engine has
// compiled everything (I2).

import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import { CheckpointDigest } from "../../src/codec/replication-checkpoint.ts";

test("both sides' digests are the same, also when thousands of checkpoints have gone before", () => {
  const payload = Buffer.alloc(8192, 7);
  for (let epoch = 0; epoch < 3000; epoch++) {
    const [primary, backup] = [new CheckpointDigest(epoch), new CheckpointDigest(epoch)];
    for (let message = 0; message < 1 + (epoch % 20); message++) {
      const crc = crc32(payload.subarray(0, 64 + ((message * 977) % 4096)));
      primary.addPages(crc, 3);
      backup.addPages(crc, 3);
    }
    assert.equal(primary.summary.digest, backup.summary.digest);
  }
});
