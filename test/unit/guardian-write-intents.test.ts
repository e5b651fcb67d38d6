// I7: every change of a disk stands in a write-intent log that is there when it is needed.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { DiskEndpoint } from "../../src/disk/endpoint.ts";
import { WriteIntents } from "../../src/guardian/disks/write-intents.ts";
import type { QemuProcess } from "../../src/hypervisor/qemu/process.ts";

const VM = "vm1";

test("I7: no log is begun while those of earlier protections are being removed, however fast the first one grows", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "remus-intents-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const image = join(folder, "disk.img");
  writeFileSync(image, "");
  const made: { path: string; afterBegun: boolean }[] = [];
  let begun = false;
  const renewed = Promise.withResolvers<void>();
  const endpoint = {
    log: async ({ path }: { path: string }) => {
      writeFileSync(path, "");
      made.push({ path, afterBegun: begun });
      if (made.length === 2) renewed.resolve();
      return 0;
    },
    retire: () => {},
  };
  const intents = new WriteIntents({
    // What QEMU would say to the change of logs is not the question here.
    qemu: { qmp: { execute: () => Promise.reject(new Error("no QEMU")) } } as unknown as QemuProcess,
    endpoint: endpoint as unknown as DiskEndpoint,
    folder,
    vm: VM,
    session: "00000000-0000-4000-8000-000000000001",
    disks: [],
    runningEpoch: () => 0,
    onFailed: () => {},
  });
  await intents.begin({ disk: 0, bytes: 1 << 20, clusterBytes: undefined, image });
  const [first] = made;
  const grows = () => intents.grown(first!.path, 1 << 30);

  grows();
  await intents.begun();
  begun = true;
  grows();
  await renewed.promise;

  assert.deepEqual(
    made.map(({ afterBegun }) => afterBegun),
    [false, true],
  );
  for (const { path } of made) assert.ok(existsSync(path), path);
  intents.end();
});
