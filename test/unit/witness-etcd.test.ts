// Claims in a real etcd of three members (docs/specs/witness.md).
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { authority } from "./witness-certificates.ts";
import { EtcdCluster } from "./witness-etcd-cluster.ts";
import { losingProxy } from "./witness-losing-proxy.ts";
import { folder } from "./witness-server-process.ts";
import { open, race, untimed, witnessSuite } from "./witness-suite.ts";

const deadline = () => AbortSignal.timeout(20_000);
const kind = "etcd";

const shared = mkdtempSync(join(tmpdir(), "remus-etcd-"));
let cluster: EtcdCluster;
before(async () => {
  cluster = await EtcdCluster.start(shared, 3);
});
after(async () => {
  await cluster?.end();
  rmSync(shared, { recursive: true, force: true });
});

witnessSuite("etcd", async () => ({ kind, endpoints: cluster.endpoints }));

test("I3: two hosts race for 60 generations while members are killed and come back: each is exactly one's", async (t) => {
  const { endpoints } = cluster;
  // Each host has another member on its own side, and asks it first.
  const { witness: a } = open(t, { kind, endpoints });
  const { witness: b } = open(t, { kind, endpoints: [...endpoints].reverse() });
  const events: Record<number, () => Promise<void> | void> = {
    10: () => cluster.kill(0),
    20: () => cluster.startMember(0),
    25: () => cluster.kill(1),
    35: () => cluster.startMember(1),
    40: () => cluster.signal(2, "SIGSTOP"),
    50: () => cluster.signal(2, "SIGCONT"),
  };
  // Generations may be skipped by who is overtaken.
  let next = 0;
  const wins = await race([a, b], 60, async (generation) => {
    for (; next <= generation; next++) await events[next]?.();
  });
  t.diagnostic(`host-a was granted ${wins.a}, host-b ${wins.b}`);
  assert.ok(next > 50, "every member was struck");
});

test("I3: a grant whose answer was lost is granted again to the same host, and denied to the other", async (t) => {
  const proxy = await losingProxy(t, cluster.endpoints[0]!);
  const { witness: a } = open(t, { kind, endpoints: [proxy.url] });
  const { witness: b } = open(t, { kind, endpoints: cluster.endpoints });
  const vm = randomUUID();
  proxy.lose(2);
  assert.deepEqual(await a.ask(vm, 1, "host-a", deadline()), { granted: true, generation: 2 });
  assert.equal(proxy.lost.length, 2);
  assert.equal(proxy.lost[0]!.succeeded, true, "the first try was carried out");
  assert.equal(proxy.lost[1]!.succeeded, undefined, "the second found that");
  assert.deepEqual(await b.ask(vm, 1, "host-b", deadline()), { granted: false, generation: 2 });
});

test("I3: without a majority there is no word, neither granted nor denied; when it is back there is", async (t) => {
  const { witness, next } = open(t, { kind, endpoints: cluster.endpoints });
  const vm = randomUUID();
  assert.deepEqual(await witness.ask(vm, 1, "host-a", deadline()), { granted: true, generation: 2 });
  await cluster.kill(0);
  await cluster.kill(1);
  const unreachable = next("unreachable");
  const [asked, read] = [witness.ask(vm, 2, "host-a", deadline()), witness.latest(vm, deadline())];
  await unreachable;
  const word = Promise.race([asked, read]);
  assert.equal(
    await Promise.race([word, new Promise((late) => setTimeout(late, 500, "no word"))]),
    "no word",
  );
  const reachable = next("reachable");
  await cluster.startMember(0);
  await reachable;
  assert.deepEqual(await asked, { granted: true, generation: 3 });
  await read;
  await cluster.startMember(1);
});

test("TLS, client certificates, a user with a password, and rights below the prefix only", async (t) => {
  const path = folder(t);
  const { caFile, issue } = authority(path);
  const own = { caFile, ...issue("member") };
  const secured = await EtcdCluster.start(path, 1, own);
  t.after(() => secured.end());
  await secure(secured);
  const { certFile, keyFile } = issue("host-a", "O");
  const [passwordFile, wrongFile] = [join(path, "password"), join(path, "wrong")];
  writeFileSync(passwordFile, "correct horse\n");
  writeFileSync(wrongFile, "battery staple\n");
  const right = {
    kind,
    endpoints: secured.endpoints,
    caFile,
    certFile,
    keyFile,
    user: "remus",
    passwordFile,
  } as const;
  const { user: _, passwordFile: __, ...nobody } = right;
  const { certFile: ___, keyFile: ____, ...anonymous } = right;
  const vm = randomUUID();
  for (const [choice, why] of [
    [{ ...right, passwordFile: wrongFile }, /authentication failed, invalid user ID or password/],
    [nobody, /user name is empty|permission denied/],
    [
      { ...right, ...issue("named") },
      /CommonName of client.* Give this host a client certificate without a CommonName/,
    ],
    [anonymous, /certificate required|bad certificate|socket hang up|ECONNRESET|EPIPE/],
    [{ ...right, prefix: "elsewhere/" }, /permission denied/],
    [{ ...right, caFile: issue("stranger").certFile }, /unable to (verify|get)|self-signed/],
  ] as const) {
    const { witness, next } = open(t, choice);
    const unreachable = next("unreachable");
    const given = new AbortController();
    const refused = assert.rejects(witness.ask(vm, 1, "host-a", given.signal), /seen enough/);
    const said = await unreachable;
    given.abort(new Error("seen enough"));
    await refused;
    assert.match(said, why);
  }
  const { witness } = open(t, right);
  assert.deepEqual(await witness.ask(vm, 1, "host-a", deadline()), { granted: true, generation: 2 });
  // A member that was restarted knows none of the tokens that it gave.
  await secured.kill(0);
  await secured.startMember(0);
  assert.deepEqual(await witness.ask(vm, 2, "host-a", deadline()), { granted: true, generation: 3 });
  assert.deepEqual(untimed(await witness.latest(vm, deadline())), { generation: 3, host: "host-a" });
});

/** As docs/specs/witness.md tells the administrator: a user with rights below the prefix. */
async function secure(etcd: EtcdCluster): Promise<void> {
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  await etcd.order("/v3/auth/role/add", { name: "root" });
  await etcd.order("/v3/auth/user/add", { name: "root", password: "root" });
  await etcd.order("/v3/auth/user/grant", { user: "root", role: "root" });
  await etcd.order("/v3/auth/role/add", { name: "witness" });
  await etcd.order("/v3/auth/role/grant", {
    name: "witness",
    perm: { permType: "READWRITE", key: base64("remus/"), range_end: base64("remus0") },
  });
  await etcd.order("/v3/auth/user/add", { name: "remus", password: "correct horse" });
  await etcd.order("/v3/auth/user/grant", { user: "remus", role: "witness" });
  await etcd.order("/v3/auth/enable", {});
}
