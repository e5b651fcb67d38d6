/** Limits of control groups, of both versions, as files of a made-up host. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { cgroupMemory } from "../../src/os/cgroup-memory.ts";

function host(t: TestContext, self: string, files: Readonly<Record<string, string>>) {
  const root = mkdtempSync(join(tmpdir(), "remus-cgroup-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  for (const [name, contents] of Object.entries({ self, ...files })) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), contents);
  }
  return { self: join(root, "self"), root };
}

test("v2: the narrowest limit counts, of the group or of one above it; what can be taken back does not", async (t) => {
  const at = host(t, "0::/system.slice/remus.service\n", {
    "system.slice/remus.service/memory.max": "max\n",
    "system.slice/remus.service/memory.high": "9000\n",
    "system.slice/remus.service/memory.current": "1000\n",
    "system.slice/memory.max": "6000\n",
    "system.slice/memory.current": "5000\n",
    "system.slice/memory.stat": "anon 10\ninactive_file 300\nactive_file 200\nshmem 4000\n",
  });
  assert.deepEqual(await cgroupMemory(at), {
    bytes: 1500,
    limit: join(at.root, "system.slice/memory.max"),
  });
});

test("v1, beside others", async (t) => {
  const at = host(t, "9:name=systemd:/\n4:cpu,memory:/vm\n0::/\n", {
    "memory/vm/memory.limit_in_bytes": "4096\n",
    "memory/vm/memory.usage_in_bytes": "1096\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
  });
  assert.deepEqual(await cgroupMemory(at), {
    bytes: 3000,
    limit: join(at.root, "memory/vm/memory.limit_in_bytes"),
  });
});

test("no limit, and nothing that can be read", async (t) => {
  const at = host(t, "0::/\n", { "memory.max": "max\n" });
  assert.equal(await cgroupMemory(at), undefined);
  assert.equal(await cgroupMemory({ self: "/no/such/file", root: "/no/such" }), undefined);
});
