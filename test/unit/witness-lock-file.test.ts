import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { MARK } from "../../src/witness/lock-directory.ts";
import { LockFileRegister } from "../../src/witness/lock-file.ts";
import { Witness } from "../../src/witness/witness.ts";
import { folder } from "./witness-server-process.ts";
import { open, race, untimed, witnessSuite } from "./witness-suite.ts";

const deadline = () => AbortSignal.timeout(10_000);

function shared(t: TestContext): string {
  const directory = folder(t);
  writeFileSync(join(directory, MARK), "");
  return directory;
}

const directories = new WeakMap<TestContext, string>();
witnessSuite("lock file", (t) => {
  const directory = directories.get(t) ?? shared(t);
  directories.set(t, directory);
  return Promise.resolve({ kind: "lock-file", directory });
});

test("I3: two processes race for 100 generations: one wins each, and nothing but claims is left behind", async (t) => {
  const directory = shared(t);
  const [{ witness: a }, { witness: b }] = [
    open(t, { kind: "lock-file", directory }),
    open(t, { kind: "lock-file", directory }),
  ];
  const wins = await race([a, b], 100);
  t.diagnostic(`host-a was granted ${wins.a}, host-b ${wins.b}`);
  const names = readdirSync(directory).filter((name) => name !== MARK);
  assert.equal(names.length, 100);
  assert.ok(
    names.every((name) => /^[0-9a-f-]{36}\.\d{16}$/.test(name)),
    names.join(" "),
  );
});

test("a directory that is not mounted is no witness: it is waited for, and said once", async (t) => {
  const directory = shared(t);
  renameSync(directory, `${directory}.elsewhere`);
  t.after(() => rmSync(`${directory}.elsewhere`, { recursive: true, force: true }));
  mkdirSync(directory);
  const { witness, notices, next } = open(t, { kind: "lock-file", directory });
  const unreachable = next("unreachable");
  const asked = witness.ask(randomUUID(), 1, "host-a", deadline());
  assert.match(await unreachable, /remus-witness is not there: the directory is not mounted/);
  await assert.rejects(witness.latest(randomUUID(), AbortSignal.timeout(500)), { name: "TimeoutError" });
  assert.deepEqual(readdirSync(directory), [], "nothing was written where only this host sees it");
  rmSync(directory, { recursive: true });
  renameSync(`${directory}.elsewhere`, directory);
  assert.deepEqual(await asked, { granted: true, generation: 2 });
  assert.deepEqual(notices, ["unreachable", "reachable"]);
});

test("I3: a damaged claim is not taken for none", async (t) => {
  const directory = shared(t);
  const { witness, next } = open(t, { kind: "lock-file", directory });
  const vm = randomUUID();
  await witness.ask(vm, 1, "host-a", deadline());
  const path = join(directory, `${vm}.0000000000000002`);
  const text = readFileSync(path, "utf8");
  for (const damaged of [text.replace("host-a", "host-b"), text.slice(0, -1), ""]) {
    writeFileSync(path, damaged);
    const unreachable = next("unreachable");
    const asked = witness.ask(vm, 1, "host-b", deadline());
    assert.match(await unreachable, /is damaged: it must hold one claim/);
    writeFileSync(path, text);
    assert.deepEqual(await asked, { granted: false, generation: 2 });
  }
  const unreachable = next("unreachable");
  writeFileSync(join(directory, `${vm}.bak`), text);
  const asked = witness.latest(vm, deadline());
  assert.match(await unreachable, /\.bak is no claim/);
  rmSync(join(directory, `${vm}.bak`));
  assert.deepEqual(untimed(await asked), { generation: 2, host: "host-a" });
});

test("storage that hangs holds up only the process that reads it, and another one takes its place", async (t) => {
  const directory = shared(t);
  const notices: string[] = [];
  const witness = new Witness(new LockFileRegister({ directory }, 1000), {
    unreachable: (text) => notices.push(text),
    reachable: (text) => notices.push(text),
  });
  t.after(() => witness.close());
  const vm = randomUUID();
  assert.equal(await witness.latest(vm, deadline()), undefined);
  const [reader, ...others] = processesOf(directory);
  assert.deepEqual(others, []);
  process.kill(reader!, "SIGSTOP");
  assert.deepEqual(await witness.ask(vm, 1, "host-a", deadline()), { granted: true, generation: 2 });
  assert.match(notices.join("\n"), /does not answer within 1000 ms\n.* answers again/);
  assert.equal(processesOf(directory).includes(reader!), false);
});

/** The children of this process that were started for this directory. */
function processesOf(directory: string): number[] {
  return readdirSync("/proc/self/task")
    .flatMap((thread) => readFileSync(`/proc/self/task/${thread}/children`, "utf8").split(" "))
    .filter((pid) => pid !== "" && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(directory))
    .map(Number);
}
