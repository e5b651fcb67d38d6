import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { CheckpointProof } from "../../src/guardian/backup/checkpoint-proof.ts";

test("a host that forbids a trial its own network is not taken for one that is not fit", async (t) => {
  const root = mkdtempSync(join(tmpdir(), "remus-proof-"));
  const path = process.env.PATH;
  t.after(() => {
    process.env.PATH = path;
    rmSync(root, { recursive: true, force: true });
  });
  // As in a container without CAP_SYS_ADMIN, or a unit with RestrictNamespaces=.
  const words = "unshare failed: Operation not permitted";
  writeFileSync(join(root, "unshare"), `#!/bin/sh\necho "${words}" >&2\nexit 1\n`, { mode: 0o755 });
  process.env.PATH = `${root}:${path}`;
  const warned: string[] = [];
  const vm = {
    name: "vm",
    machine: "pc",
    cpu: "qemu64",
    vcpus: 1,
    memoryMiB: 64,
    boot: { kind: "firmware" },
  };
  const proof = new CheckpointProof({
    config: { vm: { ...vm, nics: [], disks: [], extraArgs: [] }, runDirectory: root },
    environment: { accelerator: "tcg", preload: undefined, images: [], boot: {} },
    ramFile: join(root, "ram"),
    log: { info: () => {}, error: () => {}, warn: (text: string) => void warned.push(text) },
  } as unknown as ConstructorParameters<typeof CheckpointProof>[0]);
  proof.begin();
  await proof.prove({} as Parameters<CheckpointProof["prove"]>[0]);
  assert.equal(warned.length, 1);
  assert.match(warned[0]!, new RegExp(`not tried beforehand.*${words}`));
});
