// After a failover the file system on the survivor's disk must be whole, and hold every record that a client
// was told of (I4). What looks at that must see a file system that is not, and a record that is missing.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { countIncrements } from "../../src/lab/append-only-file.ts";
import { checkFileSystem, fsckClean } from "../../src/lab/file-system.ts";
import { redisServerFile } from "../../src/lab/guest-image.ts";

const run = promisify(execFile);
const options = { timeout: 20_000 };

async function scratch(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "remus-fs-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** An ext4 image with these files in it. */
async function makeImage(folder: string, files: string): Promise<string> {
  const image = join(folder, "image");
  await writeFile(image, "");
  await run("truncate", ["-s", "24M", image]);
  await run("mkfs.ext4", ["-q", "-F", "-d", files, image]);
  return image;
}

/** A copy of the image to which debugfs has done `deed`. */
async function spoiled(image: string, deed: string): Promise<string> {
  const copy = `${image}-spoiled`;
  await copyFile(image, copy);
  await run("debugfs", ["-w", "-R", deed, copy]);
  return copy;
}

/** Which number mkfs gives to a file differs from one e2fsprogs to the next. */
async function inodeOf(image: string, path: string): Promise<string> {
  const { stdout } = await run("debugfs", ["-R", `stat ${path}`, image]);
  return /^Inode: (\d+)/.exec(stdout)![1]!;
}

test("a whole file system is clean, and each kind of damage is told", options, async (t) => {
  const folder = await scratch(t);
  const files = join(folder, "files");
  await mkdir(files);
  await writeFile(join(files, "notes"), "a".repeat(20_000));
  const image = await makeImage(folder, files);
  assert.deepEqual(await checkFileSystem(image), { clean: true, complaint: "" });
  for (const [deed, complaint] of [
    ["clri /notes", /deleted\/unused inode/],
    ["freeb 100 3", /Block bitmap differences/],
    ["set_super_value state 2", /the kernel found a mistake: file system state "not clean with errors"/],
    ["set_inode_field /notes links_count 3", /Inode \d+ ref count is 3, should be 1/],
    ["zap_block -f /notes -p 7 0", undefined],
  ] as const) {
    const check = await checkFileSystem(await spoiled(image, deed));
    assert.equal(check.clean, complaint === undefined, `${deed}: ${check.complaint}`);
    if (complaint !== undefined) assert.match(check.complaint, complaint, deed);
  }
  const blank = join(folder, "blank");
  await run("truncate", ["-s", "24M", blank]);
  assert.equal(await fsckClean(blank), false, "no file system at all");
});

test(
  "a file that was open when it was deleted is freed at the next mount, and is no damage",
  options,
  async (t) => {
    const folder = await scratch(t);
    const files = join(folder, "files");
    await mkdir(files);
    await writeFile(join(files, "open"), "a".repeat(20_000));
    const image = await makeImage(folder, files);
    // What the kernel leaves: no name, no links, and the inode's number in the superblock's list.
    for (const deed of [
      "set_inode_field /open links_count 0",
      `set_super_value last_orphan ${await inodeOf(image, "/open")}`,
      "unlink /open",
    ]) {
      await run("debugfs", ["-w", "-R", deed, image]);
    }
    assert.deepEqual(await checkFileSystem(image), { clean: true, complaint: "" });
  },
);

test("a qcow2 image is looked at as its guest sees it", options, async (t) => {
  const folder = await scratch(t);
  const files = join(folder, "files");
  await mkdir(files);
  await writeFile(join(files, "notes"), "text");
  const image = await makeImage(folder, files);
  const packed = join(folder, "packed");
  await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", image, packed]);
  let text = "";
  const check = await checkFileSystem(packed, {
    format: "qcow2",
    read: async (look) => {
      text = (await look.read("/notes")).toString();
      await assert.rejects(look.read("/other"), /no file \/other on the image: .*not found/);
    },
  });
  assert.deepEqual([check.clean, text], [true, "text"]);
});

test(
  "every increment that Redis has answered is in its append-only file, found on an image",
  options,
  async (t) => {
    const folder = await scratch(t);
    const data = join(folder, "data");
    await mkdir(data);
    const socket = join(folder, "redis.sock");
    const words = ["--port", "0", "--unixsocket", socket, "--dir", data, "--save", "", "--appendonly", "yes"];
    const more = ["--appendfsync", "always", "--aof-use-rdb-preamble", "no", "--loglevel", "warning"];
    const redis = spawn(redisServerFile, [...words, ...more], { argv0: "redis-server", stdio: "ignore" });
    t.after(() => redis.kill("SIGKILL"));
    while (!(await readdir(folder)).includes("redis.sock"))
      await new Promise((again) => setTimeout(again, 5));
    const { stdout } = await run("redis-cli", ["-s", socket, "-r", "250", "incr", "counter"]);
    redis.kill("SIGKILL");
    assert.equal(stdout.trim().split("\n").at(-1), "250");
    const image = await makeImage(folder, data);
    let found = Number.NaN;
    const read = async (files: { read(path: string): Promise<Buffer> }) => {
      found = await countIncrements((name) => files.read(`/appendonlydir/${name}`), "counter");
    };
    assert.equal((await checkFileSystem(image, { read })).clean, true);
    assert.equal(found, 250);
  },
);
