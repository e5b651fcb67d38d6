import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { EpochCell } from "../../src/memory/epoch-cell.ts";
import { CHUNK_BYTES, Staging } from "../../src/memory/staging.ts";

const never = () => false;
const always = () => true;

test("I6: staging has as many chunks as fit, at least two, and each is there once", () => {
  assert.equal(Staging.ofSize(0).chunkCount, 2);
  assert.equal(Staging.ofSize(4 * CHUNK_BYTES + 5).chunkCount, 4);
  const staging = Staging.ofSize(3 * CHUNK_BYTES);
  const taken = new Set([staging.take(never), staging.take(never), staging.take(never)]);
  assert.deepEqual([...taken].sort(), [0, 1, 2]);
  assert.equal(staging.takenBytes, 3 * CHUNK_BYTES);
  assert.equal(staging.take(always), -1, "there is no fourth");
  staging.give(1);
  assert.equal(staging.takenBytes, 2 * CHUNK_BYTES);
  assert.equal(staging.take(never), 1);
});

test("chunks do not overlap and lie over the same memory from wherever they are looked at", () => {
  const here = Staging.ofSize(2 * CHUNK_BYTES);
  const there = new Staging(here.shared);
  for (const index of [0, 1]) here.chunk(index).fill(index + 1);
  for (const index of [0, 1]) {
    assert.equal(there.chunk(index).length, CHUNK_BYTES);
    assert.ok(there.chunk(index).every((byte) => byte === index + 1));
  }
  assert.equal(there.take(never), 0);
  assert.equal(here.take(never), 1);
});

/**
 * Runs the text in a thread with `staging`, `cell` and `post` at hand; `say` is what it posts, as it comes.
 */
function thread(text: string, shared: { staging?: Staging; cell?: EpochCell }) {
  const from = (path: string) => JSON.stringify(new URL(`../../src/memory/${path}`, import.meta.url).href);
  const worker = new Worker(
    `const { workerData, parentPort } = require("node:worker_threads");
     const post = (word) => parentPort.postMessage(word);
     Promise.all([import(${from("staging.ts")}), import(${from("epoch-cell.ts")})]).then(([{ Staging }, { EpochCell }]) => {
       const staging = workerData.staging && new Staging(workerData.staging);
       const cell = workerData.cell && new EpochCell(workerData.cell);
       ${text}
     });`,
    { eval: true, workerData: { staging: shared.staging?.shared, cell: shared.cell?.shared } },
  );
  const said: unknown[] = [];
  worker.on("message", (word) => said.push(word));
  const heard = async (count: number) => {
    while (said.length < count) await once(worker, "message", { signal: AbortSignal.timeout(10_000) });
    return said;
  };
  return { worker, heard };
}

test("a thread that finds no chunk waits, and goes on with the one that another thread gives back", async () => {
  const staging = Staging.ofSize(2 * CHUNK_BYTES);
  staging.take(never);
  const last = staging.take(never);
  const { worker, heard } = thread("post('waits'); post(staging.take(() => false));", { staging });
  try {
    await heard(1);
    staging.give(last);
    assert.deepEqual(await heard(2), ["waits", last]);
    assert.equal(staging.takenBytes, 2 * CHUNK_BYTES);
  } finally {
    await worker.terminate();
  }
});

test("a thread that waits for a chunk can be called off", async () => {
  const staging = Staging.ofSize(2 * CHUNK_BYTES);
  const quit = new EpochCell();
  for (let index = 0; index < 2; index++) staging.take(never);
  const { worker, heard } = thread("post('waits'); post(staging.take(() => cell.get() === 1));", {
    staging,
    cell: quit,
  });
  try {
    await heard(1);
    quit.set(1);
    assert.deepEqual(await heard(2), ["waits", -1]);
  } finally {
    await worker.terminate();
  }
});

test("two threads that pass ten thousand chunks between them never have one at the same time, nor lose one", async () => {
  const staging = Staging.ofSize(3 * CHUNK_BYTES);
  const text = `
    let wrong = 0;
    for (let round = 0; round < 5000; round++) {
      const index = staging.take(() => false);
      const word = new Int32Array(staging.shared.data, index * ${CHUNK_BYTES}, 1);
      if (Atomics.add(word, 0, 1) !== 0) wrong++;
      if (Atomics.sub(word, 0, 1) !== 1) wrong++;
      staging.give(index);
    }
    post(wrong);`;
  const threads = [thread(text, { staging }), thread(text, { staging })];
  try {
    for (const { heard } of threads) assert.deepEqual(await heard(1), [0]);
    assert.equal(staging.takenBytes, 0);
  } finally {
    for (const { worker } of threads) await worker.terminate();
  }
});

test("I1: the epoch that one thread sets is the epoch that another reads, beyond 32 bits too", async () => {
  const cell = new EpochCell();
  assert.equal(cell.get(), 0);
  cell.set(2 ** 40);
  const { worker, heard } = thread("post(cell.get()); cell.set(2 ** 40 + 1); post('set');", { cell });
  try {
    assert.deepEqual(await heard(2), [2 ** 40, "set"]);
    assert.equal(cell.get(), 2 ** 40 + 1);
  } finally {
    await worker.terminate();
  }
});
