/**
 * Payloads' memory is used again, and never while somebody may still look at it (I2); what lies idle is
 * bounded (I6).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PayloadMemory } from "../../src/codec/payload-memory.ts";
import { DISK_PAYLOAD_MAX, PAGES_PAYLOAD_MAX } from "../../src/codec/replication.ts";

const KIB = 1024;
const MIB = 1 << 20;

test("what was given back is used again, by whatever needs about as much", () => {
  const memory = new PayloadMemory();
  const first = memory.take(200 * KIB);
  assert.equal(first.byteLength, 200 * KIB);
  const beside = memory.take(200 * KIB);
  assert.notEqual(beside.buffer, first.buffer, "lent twice");
  // Any part of a payload will do.
  memory.giveBack(first.subarray(4096, 8192));
  const again = memory.take(150 * KIB);
  assert.equal(again.buffer, first.buffer);
  assert.equal(again.byteLength, 150 * KIB);
  for (const bytes of [64 * KIB, MIB, PAGES_PAYLOAD_MAX, DISK_PAYLOAD_MAX]) {
    const piece = memory.take(bytes);
    assert.equal(piece.byteLength, bytes);
    assert.ok(piece.buffer.byteLength <= 2 * bytes, `${piece.buffer.byteLength} bytes for ${bytes}`);
  }
});

test("given back twice, or not from here: not lent to two", () => {
  const memory = new PayloadMemory();
  const payload = memory.take(MIB);
  for (let time = 0; time < 2; time++) memory.giveBack(payload);
  const [one, other] = [memory.take(MIB), memory.take(MIB)];
  assert.equal(one.buffer, payload.buffer);
  assert.notEqual(other.buffer, payload.buffer);
  memory.giveBack(new Uint8Array(MIB));
  assert.equal(memory.idleBytes, 0);
});

test("small ones are garbage, and of large ones only so many are kept", () => {
  const memory = new PayloadMemory();
  memory.giveBack(memory.take(1000));
  assert.equal(memory.idleBytes, 0);
  const many = Array.from({ length: 100 }, () => memory.take(MIB));
  for (const payload of many) memory.giveBack(payload);
  assert.ok(memory.idleBytes > 16 * MIB && memory.idleBytes <= 32 * MIB, `${memory.idleBytes} bytes`);
  for (let time = 0; time < 100; time++) memory.take(MIB);
  assert.equal(memory.idleBytes, 0);
});
