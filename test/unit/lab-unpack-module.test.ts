/** The lab's guest loads the kernel's modules however Debian packs them. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { moduleFileNames, unpackModule } from "../../src/lab/unpack-module.ts";

const MODULE = Buffer.from("\u007fELF a small module", "latin1");
/** Packed by xz --check=crc32, as the kernel's build does. */
const XZ = "/Td6WFoAAAFpIt42AgAhARYAAAB0L+WjAQASf0VMRiBhIHNtYWxsIG1vZHVsZQAAufgPmQABJxOQRv1+kEKZDQEAAAAAAVla";

const packings = {
  ko: MODULE,
  "ko.gz": gzipSync(MODULE),
  "ko.zst": zstdCompressSync(MODULE),
  "ko.xz": Buffer.from(XZ, "base64"),
};

test("a module is the same however it is packed: plain, gzip, zstd, xz", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "remus-module-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  assert.deepEqual(
    moduleFileNames("virtio"),
    Object.keys(packings).map((suffix) => `virtio.${suffix}`),
  );
  for (const [suffix, bytes] of Object.entries(packings)) {
    const file = join(folder, `virtio.${suffix}`);
    writeFileSync(file, bytes);
    assert.deepEqual(Buffer.from(await unpackModule(file)), MODULE, suffix);
  }
});

test("a module that is damaged, or packed in an unknown way, is an error with the file's name", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "remus-module-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const suffix of ["ko.gz", "ko.zst", "ko.xz"]) {
    const file = join(folder, `virtio.${suffix}`);
    writeFileSync(file, "no module");
    await assert.rejects(unpackModule(file), (error: Error) => error.message.includes(file), suffix);
  }
  await assert.rejects(unpackModule(join(folder, "virtio.ko.lz4")), /virtio\.ko\.lz4 is packed/);
});
