// I4 for disks is judged by what Redis left on its disk. So here the judge is judged.
import assert from "node:assert/strict";
import { test } from "node:test";
import { appendedCommands, countIncrements, type TakeOut } from "../../src/lab/append-only-file.ts";

const MANIFEST = "appendonly.aof.manifest";
const manifest = "file base.aof seq 1 type b\nfile one.aof seq 1 type i\n";

function record(...words: readonly string[]): Buffer {
  const text = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("");
  return Buffer.from(`*${words.length}\r\n${text}`);
}

function directory(files: Readonly<Record<string, string | Buffer>>): TakeOut {
  return (name) => {
    const content = files[name];
    return content === undefined
      ? Promise.reject(new Error(`no ${name}`))
      : Promise.resolve(Buffer.from(content));
  };
}

test("every increment of the key is counted, in all files, and nothing else is", async () => {
  const take = directory({
    [MANIFEST]: `file old.aof seq 1 type h\n${manifest}`,
    "base.aof": record("INCR", "counter"),
    "one.aof": Buffer.concat([
      record("SELECT", "0"),
      record("INCR", "counter"),
      record("INCR", "another"),
      record("SET", "counter\r\n*2", "ÿ"),
      record("incr", "counter"),
    ]),
  });
  assert.equal(await countIncrements(take, "counter"), 3);
  assert.deepEqual((await appendedCommands(take))[4], ["SET", "counter\r\n*2", "ÿ"]);
});

test("cut off at any byte, it holds the whole records before the cut", async () => {
  const one = record("INCR", "counter");
  const all = Buffer.concat([one, one, one]);
  for (let cut = 0; cut <= all.length; cut++) {
    const take = directory({ [MANIFEST]: manifest, "base.aof": "", "one.aof": all.subarray(0, cut) });
    assert.equal(await countIncrements(take, "counter"), Math.floor(cut / one.length), `cut at ${cut}`);
  }
});

test("what is no append-only file is refused, and not counted as an empty one", async () => {
  const one = record("INCR", "counter");
  for (const [wrong, why] of [
    [Buffer.concat([one, Buffer.alloc(40)]), /holds no command at byte 27/],
    [Buffer.concat([one, Buffer.from("*1\r\n!")]), /holds no command at byte 31/],
    [Buffer.from("REDIS0010"), /is an RDB file/],
  ] as const) {
    const take = directory({ [MANIFEST]: manifest, "base.aof": "", "one.aof": wrong });
    await assert.rejects(countIncrements(take, "counter"), why);
  }
  const cut = directory({ [MANIFEST]: manifest, "base.aof": one.subarray(0, 9), "one.aof": one });
  await assert.rejects(countIncrements(cut, "counter"), /base.aof is cut off at byte 0, and is not the last/);
  await assert.rejects(countIncrements(directory({ [MANIFEST]: "what\n" }), "counter"), /not understood/);
  await assert.rejects(countIncrements(directory({ [MANIFEST]: manifest }), "counter"), /no base.aof/);
});
