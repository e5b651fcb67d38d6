import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { open as openFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { ClaimFile } from "../../src/witness/claim-file.ts";
import { claimLine, headLine, parseLines } from "../../src/witness/claim-lines.ts";
import { WitnessServer } from "../../src/witness/server.ts";
import { folder } from "./witness-server-process.ts";
import { open as openClient } from "./witness-suite.ts";

const [vm, other] = [randomUUID(), randomUUID()];
const first = claimLine([{ vm, generation: 1, host: "host-a" }]);
const second = claimLine([
  { vm, generation: 2, host: "host-b" },
  { vm: other, generation: 9, host: "host-a" },
]);

async function opened(t: TestContext, path: string, create = false): Promise<ClaimFile> {
  const file = await ClaimFile.open(path, { create });
  t.after(() => file.close().catch(() => {}));
  return file;
}

test("claims come back from the file; the newest counts, not the last", async (t) => {
  const path = join(folder(t), "claims");
  const older = claimLine([{ vm, generation: 1, host: "host-c" }]);
  await writeFile(path, Buffer.concat([headLine, first, second, older]));
  const file = await opened(t, path);
  assert.deepEqual(await file.newest(vm), { generation: 2, host: "host-b" });
  assert.deepEqual(await file.newest(other), { generation: 9, host: "host-a" });
  assert.deepEqual(await file.claim(vm, { generation: 2, host: "host-a" }), {
    generation: 2,
    host: "host-b",
  });
  assert.deepEqual(await file.claim(vm, { generation: 5, host: "host-a" }), {
    generation: 5,
    host: "host-a",
  });
  await file.close();
  assert.deepEqual(parseLines(await readFile(path), path).claims.at(-1), {
    vm,
    generation: 5,
    host: "host-a",
  });
});

test("a line whose writing was cut off, at whichever byte, is cut off at the start, and the file goes on", async (t) => {
  const path = join(folder(t), "claims");
  const whole = Buffer.concat([headLine, first]);
  for (let length = 0; length < second.length; length++) {
    const zeros = Buffer.alloc(second.length - length);
    // The third: the file had grown, and of what was written only the end has arrived.
    const half = Buffer.concat([zeros, second.subarray(zeros.length)]);
    for (const torn of [
      second.subarray(0, length),
      Buffer.concat([second.subarray(0, length), zeros]),
      half,
    ]) {
      if (torn.equals(second)) continue;
      const { claims, wholeBytes } = parseLines(Buffer.concat([whole, torn]), path);
      assert.equal(wholeBytes, whole.length);
      assert.deepEqual(claims, [{ vm, generation: 1, host: "host-a" }]);
    }
  }
  await writeFile(path, Buffer.concat([whole, second.subarray(0, 50)]));
  const file = await opened(t, path);
  assert.equal(file.tornBytes, 50);
  await file.claim(vm, { generation: 3, host: "host-a" });
  await file.close();
  const third = claimLine([{ vm, generation: 3, host: "host-a" }]);
  assert.deepEqual(await readFile(path), Buffer.concat([whole, third]));
});

test("I3: a file that is damaged anywhere but at the torn end is refused", async (t) => {
  const path = join(folder(t), "claims");
  const good = Buffer.concat([headLine, first, second]);
  for (let at = 0; at < good.length - 1; at++) {
    const bad = Buffer.from(good);
    bad[at]! ^= 0x01;
    assert.throws(
      () => parseLines(bad, path),
      /is damaged in line \d|does not begin as a witness's file/,
      `byte ${at}`,
    );
  }
  for (const strange of [Buffer.alloc(0), headLine.subarray(0, 5), Buffer.from("hello\n")]) {
    await writeFile(path, strange);
    await assert.rejects(
      ClaimFile.open(path, { create: true }),
      /does not begin as a witness's file does; put back/,
    );
    assert.deepEqual(await readFile(path), strange, "and it is left as it is");
  }
});

test("I3: nobody is answered before what the answer rests on is on stable storage", async (t) => {
  const path = join(folder(t), "claims");
  const file = await opened(t, path, true);
  const sync = await holdSyncs(t);
  const answers: string[] = [];
  const note = (who: string) => (claim: unknown) => answers.push(`${who} ${JSON.stringify(claim)}`);
  const asked = [
    file.claim(vm, { generation: 1, host: "host-a" }).then(note("a")),
    file.claim(vm, { generation: 1, host: "host-b" }).then(note("b")),
    file.newest(vm).then(note("reader")),
  ];
  await sync.begun();
  for (let i = 0; i < 20; i++) await turn();
  assert.deepEqual(answers, []);
  assert.equal(parseLines(await readFile(path), path).claims.length, 1, "it is written, and may yet be lost");
  sync.end();
  await Promise.all(asked);
  const claim = '{"generation":1,"host":"host-a"}';
  assert.deepEqual(answers.sort(), [`a ${claim}`, `b ${claim}`, `reader ${claim}`]);
});

test("I3: a file that cannot be written is not trusted again, and nobody gets a word", async (t) => {
  const claims = await opened(t, join(folder(t), "claims"), true);
  const failed = Promise.withResolvers<Error>();
  const server = await WitnessServer.start({ claims, host: "127.0.0.1", port: 0, onFailure: failed.resolve });
  t.after(() => server.close());
  const { witness, next } = openClient(t, { kind: "server", url: server.url });
  assert.equal((await witness.ask(vm, 0, "host-a")).granted, true);
  const sync = await holdSyncs(t);
  const unreachable = next("unreachable");
  const given = new AbortController();
  const asked = witness.ask(vm, 1, "host-a", given.signal);
  await sync.begun();
  sync.end(new Error("EIO: the disk is gone"));
  assert.match(await unreachable, /status 503: .*claims cannot be written: EIO/);
  assert.match((await failed.promise).message, /cannot be written/);
  await assert.rejects(
    claims.newest(vm),
    /cannot be written/,
    "what was read before may be all there is, or not",
  );
  given.abort(new Error("seen enough"));
  await assert.rejects(asked, /seen enough/);
});

/** Lets `datasync` of files wait until `end` is called: from then on it does what it did, or fails. */
async function holdSyncs(t: TestContext) {
  const any = await openFile("/dev/null");
  const prototype = Object.getPrototypeOf(any) as typeof any;
  await any.close();
  const real = prototype.datasync;
  const begun = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  t.mock.method(prototype, "datasync", async function (this: typeof any) {
    begun.resolve();
    await ended.promise;
    await real.call(this);
  });
  const end = (error?: Error) => (error === undefined ? ended.resolve() : ended.reject(error));
  return { begun: () => begun.promise, end };
}
