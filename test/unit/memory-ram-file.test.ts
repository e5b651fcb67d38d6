import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  lchownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { makeRamFile, RamFileError } from "../../src/memory/ram-file.ts";
import { whyUnsafe } from "../../src/os/safe-path.ts";

const MIB = 2 ** 20;
const SOMEBODY = 12_345;

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-ram-file-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A file system in memory with room for so much. */
function smallFileSystem(t: TestContext, mib: number): string {
  const path = mkdtempSync(join(tmpdir(), "remus-ram-file-"));
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${mib}m,mode=0700`, "remus-test", path]);
  t.after(() => {
    execFileSync("umount", ["-l", path]);
    rmSync(path, { recursive: true });
  });
  return path;
}

test("all space of a RAM file is reserved: nothing that fills the file system later can make a touch of it fail", async (t) => {
  const place = smallFileSystem(t, 8);
  const path = join(place, "vm1.ram");
  const bytes = 6 * MIB + 8192;
  const mapping = await makeRamFile(path, bytes);
  t.after(() => mapping.close());
  assert.equal(statSync(path).blocks * 512, bytes);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.throws(() =>
    execFileSync("dd", ["if=/dev/zero", `of=${place}/other`, "bs=64k"], { stdio: "ignore" }),
  );
  mapping.bytes.fill(0xa5);
  assert.ok(readFileSync(path).every((byte) => byte === 0xa5));
});

test("without room there is no file, and the message has the number of bytes, the place and what to do", async (t) => {
  const place = smallFileSystem(t, 4);
  await assert.rejects(makeRamFile(join(place, "vm1.ram"), 6 * MIB), (error: Error) => {
    assert.ok(error instanceof RamFileError);
    assert.match(error.message, /6291456 bytes of RAM/);
    assert.ok(error.message.includes(place));
    assert.match(error.message, /Free some, or name another imageDirectory/);
    return true;
  });
  assert.deepEqual(readdirSync(place), []);
});

test("a directory that somebody else made, or may change, gets no RAM file", async (t) => {
  const parent = folder(t);
  const cases: readonly [name: string, make: (path: string) => void, says: RegExp][] = [
    ["theirs", (path) => chownSync(path, SOMEBODY, 0), /belongs to user 12345/],
    ["open", (path) => chmodSync(path, 0o777), /can be changed by every user/],
    [
      "group",
      (path) => {
        chownSync(path, 0, SOMEBODY);
        chmodSync(path, 0o770);
      },
      /can be changed by the users of group 12345/,
    ],
  ];
  for (const [name, make, says] of cases) {
    const path = join(parent, name);
    mkdirSync(path);
    make(path);
    await assert.rejects(makeRamFile(join(path, "vm1.ram"), MIB), says);
    await assert.rejects(makeRamFile(join(path, "below", "vm1.ram"), MIB), says);
    assert.equal(existsSync(join(path, "vm1.ram")), false);
  }
});

test("a link of somebody else's on the way is refused, and one of ours is followed to where it leads", (t) => {
  const parent = folder(t);
  mkdirSync(join(parent, "real"));
  symlinkSync(join(parent, "real"), join(parent, "ours"));
  assert.equal(whyUnsafe(join(parent, "ours", "vm1")), undefined);
  symlinkSync(join(parent, "real"), join(parent, "theirs"));
  lchownSync(join(parent, "theirs"), SOMEBODY, SOMEBODY);
  assert.match(whyUnsafe(join(parent, "theirs", "vm1"))!, /theirs belongs to user 12345/);
  symlinkSync("round", join(parent, "round"));
  assert.match(whyUnsafe(join(parent, "round"))!, /leads back to itself/);
});

test("in a directory where everybody may make files, what is of an unknown owner is not taken for root's", (t) => {
  const parent = folder(t);
  const host = { userIds: [0], groupIds: [0], isEmptyGroup: () => false, unknownUserId: SOMEBODY };
  chownSync(parent, SOMEBODY, SOMEBODY);
  const path = join(parent, "remus");
  // The parent lies in the temporary directory, where everybody may make files.
  assert.match(whyUnsafe(path, host)!, /belongs to user 12345/);
  chownSync(parent, 0, 0);
  mkdirSync(path);
  chownSync(path, SOMEBODY, SOMEBODY);
  assert.equal(whyUnsafe(path, host), undefined);
});

test("directories of the user who has become root by sudo are safe, and so are those of a group without members", (t) => {
  const parent = folder(t);
  const home = join(parent, "home");
  mkdirSync(home);
  chownSync(home, SOMEBODY, SOMEBODY);
  assert.match(whyUnsafe(home)!, /home belongs to user 12345/);
  const before = { ...process.env };
  t.after(() => {
    process.env = before;
  });
  Object.assign(process.env, { SUDO_UID: String(SOMEBODY), SUDO_GID: String(SOMEBODY) });
  assert.equal(whyUnsafe(join(home, "vm1")), undefined);
  chmodSync(home, 0o775);
  assert.equal(whyUnsafe(home), undefined);
  chownSync(home, SOMEBODY + 1, SOMEBODY);
  assert.match(whyUnsafe(home)!, /belongs to user 12346/);

  const lines = readFileSync("/etc/group", "utf8").trim().split("\n");
  const groups = lines
    .map((line) => line.split(":"))
    .map(([, , id, members]) => ({ id: Number(id), members }));
  const users = readFileSync("/etc/passwd", "utf8")
    .trim()
    .split("\n")
    .map((line) => Number(line.split(":")[3]));
  const empty = groups.find(({ id, members }) => members === "" && !users.includes(id))!;
  const local = join(parent, "local");
  mkdirSync(local);
  chmodSync(local, 0o2775);
  chownSync(local, 0, empty.id);
  assert.equal(whyUnsafe(join(local, "vm1")), undefined);
  // One that no file knows may have members elsewhere.
  chownSync(local, 0, SOMEBODY + 1);
  assert.match(whyUnsafe(local)!, /local can be changed by the users of group 12346/);
  const taken = users.find((id) => id !== 0)!;
  chownSync(local, 0, taken);
  assert.match(whyUnsafe(local)!, new RegExp(`the users of group ${taken}`));
});
