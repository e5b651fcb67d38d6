/**
 * The lab's guest loads what its kernel has as modules, in the right order, and leaves out what is built in.
 */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { KernelModules } from "../../src/lab/kernel-modules.ts";

const module = (depends: string) =>
  Buffer.from(`\u007fELF code\0license=GPL\0depends=${depends}\0name=it\0`, "latin1");

function kernel(t: TestContext, folder: string, files: Record<string, Uint8Array | string>): string {
  const root = mkdtempSync(join(tmpdir(), "remus-kernel-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  mkdirSync(join(root, folder, "kernel"), { recursive: true });
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(root, folder, name), bytes);
  return root;
}

test("each module comes behind those that it needs, once, from lib/ as Debian 12 has it", async (t) => {
  const root = kernel(t, "lib/modules/6.1", {
    "modules.builtin": "kernel/fs/ext4/ext4.ko\n",
    "kernel/virtio_net.ko": module("virtio,net_failover"),
    "kernel/net_failover.ko": module("failover"),
    "kernel/failover.ko": module(""),
    "kernel/virtio.ko": module("virtio_ring"),
    "kernel/virtio_ring.ko": module(""),
  });
  const modules = await KernelModules.in(root);
  assert.deepEqual(await modules.order(["virtio", "virtio_net", "ext4"]), [
    "virtio_ring",
    "virtio",
    "failover",
    "net_failover",
    "virtio_net",
  ]);
});

test("what is built in is left out, and what is packed unpacked, from usr/lib/ as Debian 13 has it", async (t) => {
  const root = kernel(t, "usr/lib/modules/6.12", {
    "modules.builtin": "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
    "kernel/virtio_blk.ko.gz": gzipSync(module("")),
  });
  const modules = await KernelModules.in(root);
  assert.deepEqual(await modules.order(["virtio_pci", "virtio_blk"]), ["virtio_blk"]);
  assert.deepEqual(Buffer.from(await modules.bytes("virtio_blk")), module(""));
});

test("a module that is neither there nor built in is named", async (t) => {
  const modules = await KernelModules.in(kernel(t, "lib/modules/6.1", { "modules.builtin": "" }));
  await assert.rejects(modules.order(["virtio_net"]), /no kernel module virtio_net\.ko/);
});
